"""Every knob of the world of pictures, in one frozen dataclass: what is drawn, and how training text lies about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ..world.config import digest_of

__all__ = ["SPLITS", "PicturesConfig", "Split"]

_LANGUAGE_KNOBS = ("lie_rate", "yes_share", "adversarial_share", "denial_share")


@dataclass(frozen=True)
class Split:
    """A part of the world.

    Attributes:
        stream: Which random choices it is made of, and the number that they contribute to the seed of the pixels.
        styles: How things are drawn, one of these for each thing.
    """

    stream: tuple[str, int]
    styles: tuple[str, ...] = ("noto", "fluent")


# Image i of "test_twemoji" is image i of "test", with every thing in a style that no training has seen.
SPLITS: dict[str, Split] = {
    "train": Split(("train", 0)),
    "val": Split(("val", 1)),
    "test": Split(("test", 2)),
    "test_twemoji": Split(("test", 2), ("twemoji",)),
}


@dataclass(frozen=True, kw_only=True)
class PicturesConfig:
    """The world of pictures.

    Image ``i`` of a split is a function of ``(config, split, i)`` alone, so a split can be extended without changing
    what it already holds.

    The language prior is in the last four knobs. Captions of training name what is typical of a place and not there
    (``lie_rate``); "yes" is the more frequent answer (``yes_share``); questions for what is typical and absent are
    rare (``adversarial_share``); and what a question takes for granted is seldom missing (``denial_share``).
    References of val and test never lie.

    Attributes:
        seed: Seed of every random choice.
        image_size: Side of the square images, in pixels.
        min_objects: Fewest distinct categories that are tried for an image.
        max_objects: Most things that are tried for an image.
        min_side: Shortest longer side of a thing, as a share of the image's side; uniform up to
        max_side: the longest.
        typical_share: Probability that a category is drawn from the place's typical ones: the co-occurrence.
        repeat_share: Probability that one of the categories is there twice or three times, where there is room.
        border_share: Probability that a thing touches the image's border.
        min_visible: A thing is only placed where it, and everything it covers, keeps at least this share of its
            silhouette visible; what is annotated is what can be seen.
        turn: Most degrees by which a thing is turned, either way.
        colour_jitter: Standard deviation of the factor on each of a thing's colour channels, around 1.
        ground_jitter: Standard deviation of the grounds' colours around the place's, of 255.
        pixel_noise: Standard deviation of independent Gaussian noise on every pixel and channel, of 255.
        lie_rate: Probability that a training caption also names one absent thing that is typical of the place.
        yes_share: Share of the training questions for existence whose answer is yes.
        adversarial_share: Share of those with answer no that ask for an absent thing which is typical of the place;
            the others ask for any absent thing that is not.
        denial_share: Share of the training questions which take a thing for granted that ask for an absent one, and
            are answered by saying so.
    """

    seed: int = 21
    image_size: int = 224
    min_objects: int = 2
    max_objects: int = 6
    min_side: float = 0.1
    max_side: float = 0.35
    typical_share: float = 0.85
    repeat_share: float = 0.3
    border_share: float = 0.15
    min_visible: float = 0.6
    turn: float = 20.0
    colour_jitter: float = 0.12
    ground_jitter: float = 14.0
    pixel_noise: float = 10.0
    lie_rate: float = 0.3
    yes_share: float = 0.6
    adversarial_share: float = 0.15
    denial_share: float = 0.1

    @property
    def visual_digest(self) -> str:
        """The digest of the knobs that decide the pixels: what a vision tower depends on."""
        return digest_of({name: value for name, value in self.to_dict().items() if name not in _LANGUAGE_KNOBS})

    @property
    def digest(self) -> str:
        """First ten hexadecimal digits of the SHA-256 of the knobs: the name of the world."""
        return digest_of(self.to_dict())

    def to_dict(self) -> dict[str, int | float]:
        """Return the knobs as a JSON-ready dictionary."""
        return asdict(self)
