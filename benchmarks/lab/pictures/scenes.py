"""One picture: what is in it, where, and the pixels; a function of (config, split, index) alone."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from ..world.scenes import LabObject
from .categories import CATEGORY_ORDER, SCENES
from .config import SPLITS, PicturesConfig
from .grounds import draw_grounds

__all__ = ["DRAWINGS", "Scene", "make_scene", "side_of"]

DRAWINGS = Path(__file__).parent / "drawings"
_ATTEMPTS = 25  # positions tried for a thing before it is left out
# A box whose middle lies nearer to the middle of the image than this share of its side is on neither side.
_MIDDLE = 0.12


@dataclass(frozen=True)
class Scene:
    """One picture with its exact ground truth.

    Attributes:
        scene: The place.
        objects: What is in it, from back to front.
        pixels: ``uint8`` array ``(height, width, 3)``.
    """

    scene: str
    objects: tuple[LabObject, ...]
    pixels: np.ndarray

    @cached_property
    def numbers(self) -> Counter[str]:
        """How many of each category can be seen, in the fixed order in which captions name them."""
        found = Counter(item.name for item in self.objects)
        return Counter({name: found[name] for name in CATEGORY_ORDER if found[name]})

    @property
    def present(self) -> tuple[str, ...]:
        """The distinct categories that can be seen, in that order."""
        return tuple(self.numbers)

    @property
    def absent_typical(self) -> tuple[str, ...]:
        """What would be typical of the place and is not there: what the language prior invents."""
        return tuple(name for name in SCENES[self.scene] if name not in self.numbers)

    @cached_property
    def sides(self) -> dict[str, tuple[str | None, str | None]]:
        """Of each category that is there once, the sides that it is on: see `side_of`."""
        size = self.pixels.shape[0]
        return {item.name: side_of(item.box, size) for item in self.objects if self.numbers[item.name] == 1}


def side_of(box: tuple[float, float, float, float], size: float) -> tuple[str | None, str | None]:
    """Return on which sides of a square image a box is: "left" or "right", and "top" or "bottom"; None for neither.

    Args:
        box: Left, top, width and height.
        size: Side of the image.
    """
    left, top, width, height = box
    across, down = (left + width / 2) / size - 0.5, (top + height / 2) / size - 0.5
    return (
        None if abs(across) < _MIDDLE else "left" if across < 0 else "right",
        None if abs(down) < _MIDDLE else "top" if down < 0 else "bottom",
    )


def make_scene(config: PicturesConfig, split: str, index: int) -> Scene:
    """Make image ``index`` of a split.

    Args:
        config: The world.
        split: A name of `SPLITS`.
        index: Number of the image within its split, from 0.

    Raises:
        ValueError: If the split is unknown or the index negative.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split: got {split!r}; expected one of {', '.join(SPLITS)}. Choose one of these.")
    if index < 0:
        raise ValueError(f"bad image number: got {index}; expected 0 or more. Count images from 0.")
    stream, number = SPLITS[split].stream
    # Python's generator for choices, because its stream is promised to stay; numpy's for pixels, because it is fast.
    rng = random.Random(f"{config.seed}/{stream}/{index}")
    noise = np.random.default_rng([config.seed, number, index])
    scene = rng.choice(tuple(SCENES))
    canvas = draw_grounds(config, scene, rng, noise)
    whole: list[np.ndarray] = []  # silhouettes, for the shares
    visible: list[np.ndarray] = []
    placed: list[str] = []
    for order, name in enumerate(_choose(config, scene, rng)):
        # A stream for each thing: one style's shapes then do not decide what the next thing is like.
        own = random.Random(f"{config.seed}/{stream}/{index}/{order}")
        if _place(config, _cut_out(config, name, SPLITS[split].styles, own), own, canvas, whole, visible):
            placed.append(name)
    canvas += noise.standard_normal(canvas.shape, np.float32) * config.pixel_noise
    objects = tuple(
        LabObject(name, mask, float(mask.sum() / full.sum()))
        for name, mask, full in zip(placed, visible, whole, strict=True)
    )
    return Scene(scene, objects, canvas.clip(0, 255).round().astype(np.uint8))


def _choose(config: PicturesConfig, scene: str, rng: random.Random) -> list[str]:
    """The categories of a picture, one of them perhaps several times."""
    wanted = rng.randint(config.min_objects, config.max_objects)
    chosen: list[str] = []
    while len(chosen) < wanted:
        left = [name for name in SCENES[scene] if name not in chosen]
        if not left or rng.random() >= config.typical_share:
            left = [name for name in CATEGORY_ORDER if name not in chosen]
        chosen.append(rng.choice(left))
    if rng.random() < config.repeat_share:
        chosen += [rng.choice(chosen)] * min(rng.choice((1, 1, 2)), config.max_objects - len(chosen))
    return chosen


@cache
def _drawings(style: str, name: str) -> tuple[Image.Image, ...]:
    paths = sorted((DRAWINGS / style).glob(f"{name.replace(' ', '_')}_?.png"))
    return tuple(Image.open(path).convert("RGBA") for path in paths)


def _cut_out(config: PicturesConfig, name: str, styles: tuple[str, ...], rng: random.Random) -> np.ndarray:
    """A thing as it will be seen: ``(height, width, 4)`` of 0–255."""
    kind, style = rng.random(), rng.random()
    found = _drawings(styles[int(style * len(styles))], name)
    drawing = found[int(kind * len(found))]
    if rng.random() < 0.5:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    longest = config.image_size * rng.uniform(config.min_side, config.max_side)
    scale = longest / max(drawing.size)
    turned = drawing.rotate(rng.uniform(-config.turn, config.turn), Image.Resampling.BICUBIC, expand=True)
    width, height = (max(4, round(side * scale)) for side in turned.size)
    tile = np.asarray(turned.resize((width, height), Image.Resampling.LANCZOS), np.float32).copy()
    tile[:, :, :3] *= [max(0.0, rng.gauss(1.0, config.colour_jitter)) for _ in range(3)]
    shown = tile[:, :, 3] >= 128
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    return tile[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _place(
    config: PicturesConfig,
    tile: np.ndarray,
    rng: random.Random,
    canvas: np.ndarray,
    whole: list[np.ndarray],
    visible: list[np.ndarray],
) -> bool:
    """Draw one more thing in front of the others, or leave it out where no tried position keeps all visible."""
    size = config.image_size
    height, width = tile.shape[:2]
    for _ in range(_ATTEMPTS):
        left, top = rng.randint(0, size - width), rng.randint(0, size - height)
        if rng.random() < config.border_share:
            side = rng.randrange(4)
            left = (0, size - width, left, left)[side]
            top = (top, top, 0, size - height)[side]
        window = (slice(top, top + height), slice(left, left + width))
        mask = np.zeros((size, size), dtype=bool)
        mask[window] = tile[:, :, 3] >= 128
        remaining = [seen & ~mask for seen in visible]
        if all(seen.sum() >= config.min_visible * full.sum() for seen, full in zip(remaining, whole, strict=True)):
            canvas[window] += tile[:, :, 3:] / 255.0 * (tile[:, :, :3] - canvas[window])
            visible[:] = [*remaining, mask]
            whole.append(mask)
            return True
    return False
