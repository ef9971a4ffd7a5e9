"""What annotations and reference captions prove of an image, as rows that a refusal adapter is trained on.

Absence is verified: an object is asked for as absent where neither the instances nor any reference caption has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from scr.adapters import KnownImage, RefusalRow, write_rows

from .coco import CocoData
from .pope.task import object_tables
from .sycophancy.task import absent_objects

_COMPANIONS = 10  # so many others, the most frequent first, are said to accompany an object

Statement: TypeAlias = Callable[[CocoData, int, str], str]
"""What is said of an object that is there: data set, image's id, object → a true sentence."""


def known_images(data: CocoData, statement: Statement) -> list[KnownImage]:
    """What annotations know about each image that has objects and reference captions.

    Args:
        data: the data set.
        statement: what is said of an object that is there.

    Raises:
        ConfigError: for a data set without captions.
    """
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


def _third(share: float) -> int:
    return min(2, int(3 * share))
