"""What lies behind the things of a picture: an upper and a lower ground, each with colours and a texture of its own."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from .config import PicturesConfig

__all__ = ["draw_grounds"]


class _Ground(NamedTuple):
    colour: tuple[int, int, int]
    texture: str


# Place → the upper ground and the lower one.
_GROUNDS: dict[str, tuple[_Ground, _Ground]] = {
    "kitchen": (_Ground((226, 214, 186), "tiles"), _Ground((168, 152, 132), "tiles")),
    "cafe": (_Ground((156, 112, 88), "boards"), _Ground((112, 78, 60), "planks")),
    "living room": (_Ground((206, 196, 176), "stripes"), _Ground((150, 108, 72), "planks")),
    "bedroom": (_Ground((186, 172, 208), "stripes"), _Ground((160, 136, 150), "grain")),
    "bathroom": (_Ground((196, 222, 232), "tiles"), _Ground((206, 208, 212), "tiles")),
    "office": (_Ground((200, 206, 212), "plain"), _Ground((124, 130, 142), "grain")),
    "street": (_Ground((168, 186, 208), "boards"), _Ground((104, 104, 108), "grain")),
    "airport": (_Ground((196, 214, 228), "boards"), _Ground((172, 174, 176), "planks")),
    "park": (_Ground((160, 204, 240), "clouds"), _Ground((104, 170, 88), "grain")),
    "farm": (_Ground((186, 210, 226), "clouds"), _Ground((186, 166, 92), "furrows")),
    "beach": (_Ground((122, 186, 226), "waves"), _Ground((232, 212, 160), "grain")),
    "zoo": (_Ground((140, 178, 132), "boards"), _Ground((196, 170, 124), "grain")),
}


def draw_grounds(config: PicturesConfig, scene: str, rng: random.Random, noise: np.random.Generator) -> np.ndarray:
    """Return the picture without its things, ``(size, size, 3)`` of 0–255.

    Args:
        config: The world.
        scene: The place.
        rng: Where choices come from.
        noise: Where noise comes from.
    """
    size = config.image_size
    canvas = np.empty((size, size, 3), np.float32)
    horizon = round(size * rng.uniform(0.35, 0.65))
    for ground, rows in zip(_GROUNDS[scene], (slice(None, horizon), slice(horizon, None)), strict=True):
        texture = _TEXTURES[ground.texture](size, rng, noise) * rng.uniform(8.0, 20.0)
        colour = np.array(ground.colour) + noise.normal(0.0, config.ground_jitter, 3)
        canvas[rows] = colour.astype(np.float32) + texture[rows, :, None]
    # Uneven light, so that a patch of ground is not one known colour.
    return canvas + _smooth(5, size, noise)[:, :, None] * config.ground_jitter


def _smooth(cells: int, size: int, noise: np.random.Generator) -> np.ndarray:
    coarse = noise.standard_normal((cells, cells), np.float32)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def _bars(size: int, period: int, shift: int) -> np.ndarray:
    """1 on every line between two bands, 0 elsewhere, along one axis."""
    return ((np.arange(size) + shift) % period < max(1, period // 14)).astype(np.float32)


def _plain(size: int, rng: random.Random, noise: np.random.Generator) -> np.ndarray:
    return np.zeros((size, size), np.float32)


def _tiles(size: int, rng: random.Random, noise: np.random.Generator) -> np.ndarray:
    period = rng.randint(18, 40)
    across, down = (_bars(size, period, rng.randrange(period)) for _ in range(2))
    return np.maximum(across[None, :], down[:, None]) * rng.choice((-1.0, 1.0))


def _boards(size: int, rng: random.Random, noise: np.random.Generator) -> np.ndarray:
    period = rng.randint(24, 60)
    return np.broadcast_to(-_bars(size, period, rng.randrange(period))[None, :], (size, size))


def _planks(size: int, rng: random.Random, noise: np.random.Generator) -> np.ndarray:
    period = rng.randint(14, 30)
    return _bars(size, period, rng.randrange(period))[:, None] * -1.0 + 0.4 * _smooth(12, size, noise)


def _stripes(size: int, rng: random.Random, noise: np.random.Generator) -> np.ndarray:
    period = rng.randint(10, 30)
    band = ((np.arange(size) + rng.randrange(period)) % period < period // 2).astype(np.float32)
    return np.broadcast_to(band[None, :], (size, size))


def _grain(size: int, rng: random.Random, noise: np.random.Generator) -> np.ndarray:
    return 0.6 * _smooth(rng.randint(40, 90), size, noise)


def _clouds(size: int, rng: random.Random, noise: np.random.Generator) -> np.ndarray:
    return np.maximum(_smooth(rng.randint(6, 12), size, noise), 0.0)


def _waves(size: int, rng: random.Random, noise: np.random.Generator) -> np.ndarray:
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32)
    bend = 3.0 * np.sin(columns * rng.uniform(0.05, 0.12) + rng.uniform(0.0, 6.0))
    return 0.6 * np.sin((rows + bend) * rng.uniform(0.3, 0.6))


def _furrows(size: int, rng: random.Random, noise: np.random.Generator) -> np.ndarray:
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32)
    return 0.6 * np.sin((columns + rng.uniform(-1.0, 1.0) * rows) * rng.uniform(0.2, 0.4))


_TEXTURES: dict[str, Callable[[int, random.Random, np.random.Generator], np.ndarray]] = {
    "plain": _plain, "tiles": _tiles, "boards": _boards, "planks": _planks, "stripes": _stripes, "grain": _grain,
    "clouds": _clouds, "waves": _waves, "furrows": _furrows,
}  # fmt: skip
