"""`python -m scr.onepass train --model M --images DIR --prompts F --output P`: train one-pass SCR's predictor."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..command.guard import guarded
from ..command.parser import Parser
from ..command.types import key_value, natural, positive, share

# torch is imported below, in the functions that need it, so that --help and a mistyped flag answer at once.

_EPILOG = """examples:
  python -m scr.onepass train --model lab/llava --images pictures --prompts prompts.txt --output predictor
  python -m scr.onepass train --model llava-hf/llava-1.5-7b-hf --images coco --prompts prompts.txt --output predictor \\
      --dtype bfloat16 --set heads=0.2

Prompts are lines of a text file. Each map is what two-pass SCR would take for one prompt about one image; a collection
that was stopped goes on, by the same command. Then: scr.patch(model, "scr_one_pass", predictor="predictor").
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        0 if all went well, 2 for an argument or input that cannot be used, 1 where files cannot be written, 130 if
        interrupted.
    """
    return guarded(
        lambda: _run(build_parser().parse_args(argv)),
        "interrupted; the same command goes on from the last maps that were saved",
    )


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="python -m scr.onepass",
        description="Train the network that predicts SCR's attention map, so that no diagnostic pass is needed.",
        epilog=_EPILOG,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="collect maps, train a predictor, and say how far it agrees")
    train.add_argument("--model", required=True, metavar="NAME", help="hub id, local folder, or lab/... name")
    train.add_argument("--images", type=Path, required=True, metavar="DIR", help="pictures, in the folder and below")
    train.add_argument("--prompts", type=Path, required=True, metavar="FILE", help="questions, one a line")
    train.add_argument("--output", type=Path, required=True, metavar="DIR", help="where the predictor goes")
    train.add_argument("--maps", type=positive, default=5000, metavar="N", help="how many to collect (%(default)s)")
    train.add_argument("--text", action="store_true", help="let it read the mean of the text's states, too")
    train.add_argument("--held-out", type=share, default=0.1, metavar="X", help="share of images to measure on (0.1)")
    train.add_argument("--epochs", type=positive, default=15, metavar="N", help="passes over the maps (%(default)s)")
    train.add_argument("--seed", type=natural, default=0, metavar="N", help="of pairs, split and weights (0)")
    train.add_argument("--batch-size", type=positive, default=8, metavar="N", help="prompts per forward (%(default)s)")
    train.add_argument(
        "--set", type=key_value, action="append", default=[], metavar="K=V", help="a field of two-pass SCR"
    )
    train.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the model")
    train.add_argument("--device", default="auto", help="cpu, cuda, or auto (a GPU if there is one)")
    return parser


def _run(options: argparse.Namespace) -> None:
    from ..checkpoints.chosen import load_chosen
    from ..methods.scr import SCRConfig
    from .pairs import draw_pairs, find_images, read_prompts
    from .report import held_out_images
    from .training import Recipe, train_predictor

    config = SCRConfig.from_dict(dict(options.set))
    images, prompts = find_images(options.images), read_prompts(options.prompts)
    pairs = draw_pairs(images, prompts, options.maps, options.seed)
    held_out = held_out_images(sorted({pair.image for pair in pairs}), options.held_out, options.seed)
    model, processor, revision = load_chosen(options.model, options.dtype, options.device)
    predictor = train_predictor(
        model,
        processor,
        pairs,
        held_out,
        config,
        Recipe(text=options.text, epochs=options.epochs, seed=options.seed),
        options.output,
        model_named={"model": options.model, "revision": revision, "dtype": options.dtype},
        batch_size=options.batch_size,
        show_progress=True,
    )
    print(f"predictor: {options.output} ({predictor.parameters_trained:,} parameters)")
    print(_as_text(predictor.card.report or {}))


def _as_text(report: Mapping[str, Any]) -> str:
    lines = [
        f"on {report['maps']} maps of {report['images']} images held out, K = {report['num_sources']}:",
        f"{'':12}{'sources shared':>16}{'rank correlation':>18}",
    ]
    for name in ("predicted", "mean_map", "random"):
        row = report[name]
        numbers = f"{row['sources_shared']:16.1%}{row['rank_correlation']:18.3f}" if row else f"{'–':>16}{'–':>18}"
        lines.append(f"{name.replace('_', ' '):12}{numbers}")
    return "\n".join(lines)
