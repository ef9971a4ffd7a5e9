"""`python -m benchmarks.refusal_data --data-dir coco --output refusal.jsonl`: data for a refusal adapter.

Absence is verified: an object is asked for as absent where neither the instances nor any reference caption has it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from .printing.arguments import Parser, guarded, positive, share, whole

if TYPE_CHECKING:
    from scr.adapters import KnownImage, RefusalRow

    from .tasks.coco import CocoData

# torch is imported below, in the functions that need it, so that --help answers at once.

_COMPANIONS = 10  # so many others, the most frequent first, are said to accompany an object

Statement: TypeAlias = "Callable[[CocoData, int, str], str]"
"""What is said of an object that is there: data set, image's id, object → a true sentence."""


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


def known_images(data: CocoData, statement: Statement) -> list[KnownImage]:
    """What annotations know about each image that has objects and reference captions.

    Args:
        data: the data set.
        statement: what is said of an object that is there.

    Raises:
        ConfigError: for a data set without captions.
    """
    from scr.adapters import KnownImage

    from .tasks.pope.task import object_tables
    from .tasks.sycophancy.task import absent_objects

    tables = object_tables([data.objects(image.id) for image in data.images])
    names = sorted(tables.frequency)
    known = []
    for image in data.images:
        objects, captions = data.objects(image.id), data.captions(image.id)
        if not objects or not captions:
            continue
        absent = absent_objects(objects, captions, names)
        companions = {other for name in objects for other in tables.co_occurring.get(name, ())[:_COMPANIONS]}
        known.append(
            KnownImage(
                image=image.path,
                present={name: statement(data, image.id, name) for name in objects},
                absent=absent,
                beside=[name for name in absent if name in companions],
            )
        )
    return known


def place_of(data: CocoData, image_id: int, name: str) -> str:
    """Where the largest instance of an object is, in words: a statement that the annotations prove."""
    measured = [one for one in data.instances(image_id) if one.name == name]
    size = data.size(image_id)
    if not measured or size is None:
        return f"I see the {name} in this image."
    left, top, width, height = max(measured, key=lambda one: one.area).box
    column = ("left", "middle", "right")[_third((left + width / 2) / size[0])]
    row = ("upper", "", "lower")[_third((top + height / 2) / size[1])]
    return f"I see the {name} in the {' '.join(filter(None, (row, column)))} of this image."


def write_refusals(path: Path, rows: Sequence[RefusalRow]) -> None:
    """Write rows as the training reads them; images by their full paths."""
    from scr.adapters import write_rows

    write_rows(
        path,
        [
            {
                "image": str(row.image.resolve()),
                "question": row.question,
                "answer": row.answer,
                "object": row.object,
                "present": row.present,
                "half": row.half,
            }
            for row in rows
        ],
    )


def _run(options: argparse.Namespace) -> int:
    from scr import ConfigError
    from scr.adapters import refusal_rows, split_images

    from .tasks.coco import CocoData

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


def _third(share: float) -> int:
    return min(2, int(3 * share))


if __name__ == "__main__":
    sys.exit(main())
