"""One image of the lab's world: what is in it, where, and the pixels; a function of (config, split, index) alone."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from .categories import CATEGORY_ORDER, SCENES
from .config import SPLITS, WorldConfig
from .glyphs import GLYPHS, draw_glyph

__all__ = ["LabImage", "LabObject", "make_image"]

_ATTEMPTS = 25  # positions tried for an object before it is left out

# Colour of the upper and the lower part of the background.
_BACKDROPS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "kitchen": ((205, 190, 150), (150, 140, 125)),
    "dining room": ((190, 150, 130), (130, 95, 75)),
    "office": ((175, 185, 190), (105, 110, 120)),
    "bedroom": ((175, 160, 195), (140, 115, 120)),
    "street": ((150, 160, 180), (95, 95, 100)),
    "park": ((150, 190, 225), (85, 150, 75)),
    "farm": ((165, 195, 210), (165, 150, 75)),
    "beach": ((120, 175, 215), (220, 200, 150)),
}


class LabObject(NamedTuple):
    """One object of an image: what it is, and exactly which pixels of it can be seen.

    Attributes:
        name: The category.
        mask: Boolean array ``(height, width)`` of the whole image: the visible silhouette.
        visible: Visible share of the silhouette, at least ``WorldConfig.min_visible``.
    """

    name: str
    mask: np.ndarray
    visible: float

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, width and height of the visible part, in pixels."""
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        left, top = int(columns[0]), int(rows[0])
        return left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1


@dataclass(frozen=True)
class LabImage:
    """One image with its exact ground truth.

    Attributes:
        scene: Name of the scene type.
        objects: What is in it, from back to front.
        pixels: ``uint8`` array ``(height, width, 3)``.
    """

    scene: str
    objects: tuple[LabObject, ...]
    pixels: np.ndarray

    @property
    def present(self) -> tuple[str, ...]:
        """The distinct categories that can be seen, in the fixed order in which captions name them."""
        names = {item.name for item in self.objects}
        return tuple(name for name in CATEGORY_ORDER if name in names)

    @property
    def absent_typical(self) -> tuple[str, ...]:
        """What would be typical of the scene and is not there: what the language prior invents."""
        names = {item.name for item in self.objects}
        return tuple(name for name in SCENES[self.scene] if name not in names)


def make_image(config: WorldConfig, split: str, index: int) -> LabImage:
    """Make image ``index`` of a split.

    Args:
        config: The world.
        split: "train", "val" or "test".
        index: Number of the image within its split, from 0.

    Raises:
        ValueError: If the split is unknown or the index negative.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split: got {split!r}; expected one of {', '.join(SPLITS)}. Choose one of these.")
    if index < 0:
        raise ValueError(f"bad image number: got {index}; expected 0 or more. Count images from 0.")
    # Python's generator for choices, because its stream is promised to stay; numpy's for pixels, because it is fast.
    rng = random.Random(f"{config.seed}/{split}/{index}")
    noise = np.random.default_rng([config.seed, SPLITS[split], index])
    scene = rng.choice(tuple(SCENES))
    canvas = _backdrop(config, scene, rng, noise)
    silhouettes: list[tuple[str, np.ndarray]] = []  # whole silhouettes, for the shares
    visible: list[np.ndarray] = []
    for name in _choose_categories(config, scene, rng):
        _place(config, name, rng, canvas, silhouettes, visible)
    canvas += noise.normal(0.0, config.pixel_noise, canvas.shape)
    objects = tuple(
        LabObject(name, mask, float(mask.sum() / silhouette.sum()))
        for (name, silhouette), mask in zip(silhouettes, visible, strict=True)
    )
    return LabImage(scene, objects, canvas.clip(0, 255).round().astype(np.uint8))


def _choose_categories(config: WorldConfig, scene: str, rng: random.Random) -> list[str]:
    wanted = rng.randint(config.min_objects, config.max_objects)
    chosen: list[str] = []
    while len(chosen) < wanted:
        left = [name for name in SCENES[scene] if name not in chosen]
        if not left or rng.random() >= config.typical_share:
            left = [name for name in CATEGORY_ORDER if name not in chosen]
        chosen.append(rng.choice(left))
    if rng.random() < config.repeat_share:
        chosen.append(rng.choice(chosen))
    return chosen


def _backdrop(config: WorldConfig, scene: str, rng: random.Random, noise: np.random.Generator) -> np.ndarray:
    size = config.image_size
    canvas = np.empty((size, size, 3))
    horizon = round(size * rng.uniform(0.35, 0.65))
    for color, rows in zip(_BACKDROPS[scene], (slice(None, horizon), slice(horizon, None)), strict=True):
        canvas[rows] = np.array(color) + noise.normal(0.0, config.background_jitter, 3)
    # Uneven light, so that a patch of background is not one known colour.
    coarse = noise.normal(0.0, config.background_jitter, (5, 5)).astype(np.float32)
    light = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    return canvas + np.asarray(light)[:, :, None]


def _place(
    config: WorldConfig,
    name: str,
    rng: random.Random,
    canvas: np.ndarray,
    silhouettes: list[tuple[str, np.ndarray]],
    visible: list[np.ndarray],
) -> None:
    """Draw one more object in front of the others, or leave it out where no tried position keeps all visible."""
    size = config.image_size
    glyph = GLYPHS[name]
    color = tuple(channel + rng.gauss(0.0, config.color_jitter) for channel in glyph.color)
    share = math.exp(rng.uniform(math.log(config.min_area), math.log(config.max_area)))
    width = min(size, max(4, round(size * math.sqrt(share * glyph.aspect))))
    height = min(size, max(4, round(size * math.sqrt(share / glyph.aspect))))
    tile = draw_glyph(name, (width, height), color, rng.random() < 0.5)  # type: ignore[arg-type]
    coverage = tile[:, :, 3:] / 255.0
    for _ in range(_ATTEMPTS):
        left, top = rng.randint(0, size - width), rng.randint(0, size - height)
        if rng.random() < config.border_share:
            side = rng.randrange(4)
            left = (0, size - width, left, left)[side]
            top = (top, top, 0, size - height)[side]
        mask = np.zeros((size, size), dtype=bool)
        mask[top : top + height, left : left + width] = coverage[:, :, 0] >= 0.5
        remaining = [seen & ~mask for seen in visible]
        if all(
            seen.sum() >= config.min_visible * whole.sum()
            for seen, (_, whole) in zip(remaining, silhouettes, strict=True)
        ):
            window = canvas[top : top + height, left : left + width]
            window += coverage * (tile[:, :, :3] - window)
            visible[:] = [*remaining, mask]
            silhouettes.append((name, mask))
            return
