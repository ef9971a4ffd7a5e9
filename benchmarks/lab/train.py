"""Train a lab model: `python -m benchmarks.lab.train llava`. Killed at any moment, the same command resumes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..printing.arguments import Parser, guarded, threads, whole
from . import CHECKPOINTS
from .training.launch import start_anew

if TYPE_CHECKING:
    from torch import nn

    from .training.recipe import Recipe

__all__ = ["train"]

# torch is imported below, in the functions that need it, so that --help answers at once.

MODELS = tuple(name.removeprefix("lab/") for name in CHECKPOINTS)
"""What can be trained: each embedded model has a recipe."""


def train(
    recipe: Recipe, folder: Path, output: Path | None, *, val_images: int = 500, stop_after: int | None = None
) -> list[dict[str, Any]]:
    """Run all stages, taking finished ones and saved states from ``folder``.

    Args:
        recipe: Every number of the training.
        folder: Where states are kept; made if absent.
        output: Where the checkpoint goes; None for no checkpoint.
        val_images: Val images for the metrics of the model card; a tenth of them is used while training.
        stop_after: Give up after this many steps of the first unfinished stage, as a kill would; for tests.

    Returns:
        The curve of all stages that were run or found.
    """
    import torch

    from .evaluate import evaluate
    from .families import build_family
    from .training.corpus import build_corpus
    from .training.export import export
    from .training.loop import load_finished, run_stage
    from .training.stages import decoder_stage, encode_corpus, projector_stage, vision_stage
    from .world.config import digest_of

    folder.mkdir(parents=True, exist_ok=True)
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    family = build_family(recipe.family, recipe.size)
    model = family.build_model(recipe.seed).to(device)
    processor = family.build_processor()
    corpus = build_corpus(family, recipe, "train", recipe.images)
    curve: list[dict[str, Any]] = []

    def measure(step: int) -> dict[str, float]:
        result = evaluate(model, processor, max(1, val_images // 10), recipe.world)
        model.train()
        return {
            "random_accuracy": result["random"]["accuracy"],
            "random_recall": result["random"]["recall"],
            "random_hallucination_rate": result["random"]["hallucination_rate"],
            "adversarial_hallucination_rate": result["adversarial"]["hallucination_rate"],
            "chair_i": result["captions"]["chair_i"],
            "caption_recall": result["captions"]["recall"],
            "well_formed": result["captions"]["well_formed_share"],
        }

    def run(name: str, built: tuple[nn.Module, Any], measured: bool = False) -> bool:
        module, loss_of = built
        key = digest_of(recipe.inputs_of(name))
        found = load_finished(name, module, folder, key)
        if found is None:
            module.train()
            stage = recipe.stage(name)
            found = run_stage(
                name,
                stage,
                module,
                loss_of,
                folder,
                key,
                save_every=recipe.save_every,
                measure=measure if measured else None,
                stop_after=stop_after,
            )
            if stop_after is not None and found[-1]["step"] < stage.steps:
                return False
        curve.extend(found)
        return True

    if not run("vision", vision_stage(family, model, corpus, recipe)):
        return curve
    features = encode_corpus(family, model, corpus)
    if not run("projector", projector_stage(family, model, corpus, features, recipe)):
        return curve
    for name in recipe.stages[2:-1]:
        if not run(name, decoder_stage(family, model, corpus, features, recipe, name), measured=True):
            return curve
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if not run("refine", decoder_stage(family, model, corpus, features, recipe, "refine"), measured=True):
        return curve
    after = model.state_dict()
    model.load_state_dict({name: before[name].lerp(after[name], recipe.refined_share) for name in after})
    if output is not None:
        print(export(family, model, recipe, curve, output, val_images), flush=True)
    return curve


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    return guarded(
        lambda: _run(parser, parser.parse_args(given), given),
        "interrupted; the same command goes on from the last saved state",
    )


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.lab.train", description=__doc__)
    parser.add_argument("model", choices=MODELS, help="what to train")
    parser.add_argument(
        "--work", type=Path, default=Path("lab-training"), metavar="DIR", help="states (default ./lab-training)"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="checkpoint folder (default: inside the package)")
    parser.add_argument(
        "--seed", type=whole, metavar="N", help="of weights, batches and questions (default: the recipe's)"
    )
    parser.add_argument("--threads", type=threads, default=2, metavar="N", help="processor threads (%(default)s)")
    return parser


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace, given: Sequence[str]) -> None:
    start_anew("train", given)
    import torch

    from .training.recipe import RECIPES

    torch.set_num_threads(options.threads)
    recipe = RECIPES[options.model]
    if options.seed is not None and options.seed != recipe.seed:
        if options.output is None:
            parser.error("another seed is another model: give --output, so that the checkpoint of the recipe stays")
        recipe = replace(recipe, seed=options.seed)
    train(recipe, options.work, options.output or Path(__file__).parent / "checkpoints" / options.model)


if __name__ == "__main__":
    sys.exit(main())
