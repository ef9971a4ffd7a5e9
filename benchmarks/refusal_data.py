"""`python -m benchmarks.refusal_data --data-dir coco --output refusal.jsonl`: data for a refusal adapter."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .printing.arguments import Parser, guarded, positive, share, whole

# torch is imported below, in the functions that need it, so that --help answers at once.


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        0 if all went well, 2 for an argument or input that cannot be used.
    """
    return guarded(lambda: _run(build_parser().parse_args(argv)))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.refusal_data",
        description="Write training data of a refusal adapter from COCO-format annotations with reference captions: "
        "pairs of equal questions, about an object that is there and one that is verified not to be.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data-dir", type=Path, required=True, metavar="DIR", help="COCO layout")
    parser.add_argument("--split", metavar="NAME", help="which annotations/instances_<NAME>.json")
    parser.add_argument("--pairs", type=positive, default=2000, metavar="N", help="pairs to train on")
    parser.add_argument("--held-out", type=share, default=0.1, metavar="X", help="share of the images held out")
    parser.add_argument("--seed", type=whole, default=0, metavar="N", help="of all draws")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the rows; held-out ones beside it")
    return parser


def _run(options: argparse.Namespace) -> int:
    from scr import ConfigError
    from scr.adapters import refusal_rows, split_images

    from .tasks.coco import CocoData
    from .tasks.known import known_images, place_of, write_refusals

    if options.output.is_dir():
        raise ConfigError(f"no file: got --output {options.output}, a folder; expected a file. Give its name, too.")
    data = CocoData.open(options.data_dir, options.split)
    images = known_images(data, place_of)
    trained, held_out = split_images(images, options.held_out, options.seed)
    for path, some in ((options.output, trained), (options.output.with_suffix(".held_out.jsonl"), held_out)):
        if not some:
            continue
        rows = refusal_rows(some, options.pairs, options.seed)
        write_refusals(path, rows)
        halves = [row.half for row in rows if not row.present]
        print(f"{path}: {len(rows)} rows, {halves.count('co_occurring')} of {len(halves)} absent objects co-occur")
    return 0


if __name__ == "__main__":
    sys.exit(main())
