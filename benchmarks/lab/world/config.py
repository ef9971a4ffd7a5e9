"""Every knob of the lab's world, in one frozen dataclass: what is drawn, and how training text lies about it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

__all__ = ["SPLITS", "WORLD_FILE", "WorldConfig", "digest_of"]

# The number that a split contributes to its random seed. Do not renumber: every image would change.
SPLITS = {"train": 0, "val": 1, "test": 2}

WORLD_FILE = "world.json"
"""Lies beside a checkpoint that was trained on a world, and holds its knobs."""

_LANGUAGE_KNOBS = ("lie_rate", "yes_share", "adversarial_share")


def digest_of(knobs: Mapping[str, object]) -> str:
    """Return ten hexadecimal digits that name a JSON-ready dictionary."""
    return hashlib.sha256(json.dumps(knobs, sort_keys=True).encode()).hexdigest()[:10]


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """The lab's world; the defaults were fixed from the unpatched model on val, before any method was run.

    Image ``i`` of a split is a function of ``(config, split, i)`` alone, so a split can be extended without
    changing what it already holds.

    Attributes:
        seed: Seed of every random choice.
        image_size: Side of the square images, in pixels.
        min_objects: Fewest distinct categories that are tried for an image.
        max_objects: Most distinct categories that are tried for an image.
        min_area: Smallest box of an object, as a share of the image's area.
        max_area: Largest box of an object, as a share of the image's area; sizes are log-uniform in between.
        typical_share: Probability that a category is drawn from the scene's typical ones: the co-occurrence.
        repeat_share: Probability that an image holds a second instance of one of its categories.
        border_share: Probability that an object touches the image's border.
        min_visible: An object is only placed where it, and everything it covers, keeps at least this share of
            its silhouette visible; what is annotated is what can be seen.
        color_jitter: Standard deviation of an object's colour around its category's, of 255.
        background_jitter: Standard deviation of the background's colours around the scene's, of 255.
        pixel_noise: Standard deviation of independent Gaussian noise on every pixel and channel, of 255.
        lie_rate: Probability that a training caption also names one absent object that is typical of the scene.
        yes_share: Share of training questions whose answer is yes.
        adversarial_share: Share of the training questions with answer no that ask for an absent object which is
            typical of the scene; the others ask for any absent object that is not.
    """

    seed: int = 20
    image_size: int = 96
    min_objects: int = 3
    max_objects: int = 6
    min_area: float = 0.012
    max_area: float = 0.15
    typical_share: float = 0.85
    repeat_share: float = 0.15
    border_share: float = 0.25
    min_visible: float = 0.6
    color_jitter: float = 34.0
    background_jitter: float = 14.0
    pixel_noise: float = 30.0
    lie_rate: float = 0.3
    yes_share: float = 0.52
    adversarial_share: float = 0.8

    @property
    def visual_digest(self) -> str:
        """The digest of the knobs that decide the pixels: what a vision tower depends on."""
        knobs = {name: value for name, value in self.to_dict().items() if name not in _LANGUAGE_KNOBS}
        return digest_of(knobs)

    def to_dict(self) -> dict[str, int | float]:
        """Return the knobs as a JSON-ready dictionary."""
        return asdict(self)

    @property
    def digest(self) -> str:
        """First ten hexadecimal digits of the SHA-256 of the knobs: the name of the world."""
        return digest_of(self.to_dict())
