"""The lab's images on disk, in the layout of real COCO, so that benchmarks read both through the same code."""

from __future__ import annotations

from pathlib import Path

from ..cache import cache_root, made_once
from .categories import CATEGORIES
from .config import WorldConfig
from .language import references
from .layout import Described, write_layout
from .scenes import make_image

__all__ = ["DESCRIPTION", "cache_folder", "data_folder", "write_coco"]

DESCRIPTION = "scr-vlm lab world"
"""What the annotations say that they describe."""


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
    """Write the first ``count`` images of a split as real COCO lays them out: see `benchmarks.lab.world.layout`.

    Args:
        folder: Where to write; made if absent.
        split: "train", "val" or "test".
        count: Number of images.
        config: The world; None for the lab's own.
    """
    config = config or WorldConfig()

    def described(index: int) -> Described:
        image = make_image(config, split, index)
        return Described(image.pixels, image.objects, references(image, config, split, index))

    info = {"description": DESCRIPTION, "version": config.digest, "split": split, "world": config.to_dict()}
    write_layout(folder, split, map(described, range(count)), CATEGORIES, info)
