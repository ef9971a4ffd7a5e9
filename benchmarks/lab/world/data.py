"""The lab's images on disk, in the layout of real COCO, so that benchmarks read both through the same code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..cache import cache_root, made_once
from .categories import CATEGORIES
from .config import WorldConfig
from .language import references
from .scenes import make_image

__all__ = ["cache_folder", "data_folder", "write_coco"]


def cache_folder(config: WorldConfig | None = None) -> Path:
    """Return where the images of a world are kept, below `benchmarks.lab.cache.cache_root`."""
    return cache_root() / f"lab-{(config or WorldConfig()).digest}"


def data_folder(split: str, count: int, config: WorldConfig | None = None) -> Path:
    """Return a folder in COCO's layout that holds the first ``count`` images of a split, made once.

    Exactly so many, because benchmarks draw their questions from all images of a data set. Safe to call from several
    processes: the folder appears when it is complete.

    Args:
        split: "train", "val" or "test".
        count: How many images; image ``i`` is the same at any count.
        config: The world; None for the lab's own.
    """
    folder = cache_folder(config) / f"{split}-{count}"
    return made_once(folder, lambda place: write_coco(place, split, count, config))


def write_coco(folder: Path, split: str, count: int, config: WorldConfig | None = None) -> None:
    """Write the first ``count`` images of a split as real COCO lays them out.

    That is ``annotations/{instances,captions}_<split>.json`` and ``<split>/*.png``.

    Ground truth is what can be seen. ``area`` is the exact number of visible pixels, ``bbox`` their bounding box and
    ``segmentation`` a set of rectangles that covers exactly them.

    Args:
        folder: Where to write; made if absent.
        split: "train", "val" or "test".
        count: Number of images.
        config: The world; None for the lab's own.
    """
    config = config or WorldConfig()
    (folder / split).mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    for index in range(count):
        image = make_image(config, split, index)
        name = f"{index:012d}.png"
        Image.fromarray(image.pixels).save(folder / split / name, compress_level=1)
        image_id = index + 1  # COCO's ids are positive
        images.append({"id": image_id, "file_name": name, "height": config.image_size, "width": config.image_size})
        for item in image.objects:
            instances.append(
                {
                    "id": len(instances) + 1,
                    "image_id": image_id,
                    "category_id": CATEGORIES[item.name].coco_id,
                    "bbox": list(item.box),
                    "area": int(item.mask.sum()),
                    "iscrowd": 0,
                    "segmentation": _rectangles(item.mask),
                }
            )
        for text in references(image, config, split, index):
            captions.append({"id": len(captions) + 1, "image_id": image_id, "caption": text})
    categories = [{"id": c.coco_id, "name": c.name, "supercategory": c.supercategory} for c in CATEGORIES.values()]
    info = {"description": "scr-vlm lab world", "version": config.digest, "split": split, "world": config.to_dict()}
    head = {"info": info, "licenses": [], "images": images}
    _write_json(folder / "annotations" / f"captions_{split}.json", {**head, "annotations": captions})
    _write_json(
        folder / "annotations" / f"instances_{split}.json",
        {**head, "annotations": instances, "categories": categories},
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
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
