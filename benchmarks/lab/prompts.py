"""The lab's pictures and questions as files, for trainings that take both: `python -m benchmarks.lab.prompts`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scr.files import write_text

from ..printing.arguments import Parser, guarded, positive
from . import ASSEMBLED, MODELS, data_folder
from .pictures.categories import CATEGORY_ORDER as PICTURES_ORDER
from .world.categories import CATEGORY_ORDER
from .world.language import DETAIL_PROMPTS, SHORT_PROMPTS, question

_MODEL = "lab/llava"


def all_prompts(model: str = _MODEL) -> list[str]:
    """What is asked in a lab model's world: for each category whether one is there, and for captions."""
    order = PICTURES_ORDER if model in ASSEMBLED else CATEGORY_ORDER
    return [*map(question, order), *DETAIL_PROMPTS, *SHORT_PROMPTS]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the prompts, and print where the pictures of the train split are; the exit status."""
    return guarded(lambda: _run(build_parser().parse_args(argv)))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.lab.prompts", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="where the prompts go, one a line")
    parser.add_argument("--model", choices=MODELS, default=_MODEL, metavar="NAME", help="whose world (%(default)s)")
    parser.add_argument("--images", type=positive, default=1_500, metavar="N", help="of the train split (%(default)s)")
    return parser


def _run(options: argparse.Namespace) -> None:
    write_text(options.output, "".join(f"{prompt}\n" for prompt in all_prompts(options.model)))
    print(data_folder("train", options.images, options.model))


if __name__ == "__main__":
    sys.exit(main())
