"""Pictures with exact ground truth on disk, in the layout of real COCO: benchmarks read both through the same code."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from .categories import Category
from .scenes import LabObject

__all__ = ["Described", "write_layout"]


class Described(NamedTuple):
    """A picture with what is said about it.

    Attributes:
        pixels: ``uint8`` array ``(height, width, 3)``.
        objects: What can be seen.
        captions: Its references.
    """

    pixels: np.ndarray
    objects: Sequence[LabObject]
    captions: Sequence[str]


def write_layout(
    folder: Path,
    split: str,
    pictures: Iterable[Described],
    categories: Mapping[str, Category],
    info: Mapping[str, Any],
) -> None:
    """Write ``annotations/{instances,captions}_<split>.json`` and ``<split>/*.png``.

    Ground truth is what can be seen. ``area`` is the exact number of visible pixels, ``bbox`` their bounding box and
    ``segmentation`` a set of rectangles that covers exactly them.

    Args:
        folder: Where to write; made if absent.
        split: Its name.
        pictures: The pictures in their order; one at a time is held.
        categories: What there can be in them.
        info: What COCO's ``info`` says of the data set.
    """
    (folder / split).mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    for index, picture in enumerate(pictures):
        name = f"{index:012d}.png"
        Image.fromarray(picture.pixels).save(folder / split / name, compress_level=1)
        image_id = index + 1  # COCO's ids are positive
        height, width = picture.pixels.shape[:2]
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for item in picture.objects:
            instances.append(
                {
                    "id": len(instances) + 1,
                    "image_id": image_id,
                    "category_id": categories[item.name].coco_id,
                    "bbox": list(item.box),
                    "area": int(item.mask.sum()),
                    "iscrowd": 0,
                    "segmentation": _rectangles(item.mask),
                }
            )
        for text in picture.captions:
            captions.append({"id": len(captions) + 1, "image_id": image_id, "caption": text})
    kinds = [{"id": c.coco_id, "name": c.name, "supercategory": c.supercategory} for c in categories.values()]
    head = {"info": dict(info), "licenses": [], "images": images}
    _write(folder / "annotations" / f"captions_{split}.json", {**head, "annotations": captions})
    _write(folder / "annotations" / f"instances_{split}.json", {**head, "annotations": instances, "categories": kinds})


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")))


def _rectangles(mask: np.ndarray) -> list[list[int]]:
    """Cover a mask exactly by polygons: one rectangle per run of pixels, equal runs of successive rows merged."""
    rectangles: list[list[int]] = []
    open_runs: dict[tuple[int, int], int] = {}  # (left, right) of a run that reaches the row above -> its first row
    for row in range(mask.shape[0] + 1):
        line = mask[row].astype(np.int8) if row < mask.shape[0] else np.zeros(mask.shape[1], np.int8)
        edges = np.flatnonzero(np.diff(line, prepend=0, append=0)).tolist()
        runs = set(zip(edges[::2], edges[1::2], strict=True))
        for left, right in sorted(set(open_runs) - runs):
            top = open_runs.pop((left, right))
            rectangles.append([left, top, right, top, right, row, left, row])
        for run in runs:
            open_runs.setdefault(run, row)
    return rectangles
