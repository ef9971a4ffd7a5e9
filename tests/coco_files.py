"""Writes small data sets in COCO's layout."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_coco(
    folder: Path,
    split: str,
    objects: Mapping[int, Sequence[str]],
    captions: Mapping[int, Sequence[str]] | None = None,
    images: str | None = None,
) -> Path:
    """Write annotations and empty image files; `objects` holds one name per instance, in the order of annotations."""
    names = sorted({name for row in objects.values() for name in row})
    rows = [{"id": number, "file_name": f"{number:012d}.jpg"} for number in objects]
    instances = [
        {"id": 1 + index, "image_id": number, "category_id": 10 * (1 + names.index(name))}
        for index, (number, name) in enumerate((number, name) for number, row in objects.items() for name in row)
    ]
    categories = [{"id": 10 * (1 + index), "name": name} for index, name in enumerate(names)]
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    place = folder / (images or split)
    place.mkdir(parents=True, exist_ok=True)
    for row in rows:
        (place / row["file_name"]).touch()
    content = {"images": rows, "annotations": instances, "categories": categories}
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    if captions is not None:
        texts = [
            {"id": index, "image_id": number, "caption": text}
            for index, (number, text) in enumerate((number, text) for number, row in captions.items() for text in row)
        ]
        content = {"images": rows, "annotations": texts}
        (folder / "annotations" / f"captions_{split}.json").write_text(json.dumps(content))
    return folder
