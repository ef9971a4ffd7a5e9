"""What the lab's images show, read from the annotations of any of its worlds, whose ground truth is exact."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from scr import ConfigError
from scr.files import read_json

from ..tasks.coco import CocoData, CocoImage
from .pictures import categories as pictures
from .pictures.data import DESCRIPTION as PICTURES
from .pictures.scenes import side_of
from .world import categories as glyphs
from .world.data import DESCRIPTION as GLYPHS

__all__ = ["LabTruth", "World", "lab_truth"]


class World(NamedTuple):
    """What there is in a world, and what its language has words for.

    Attributes:
        scenes: Scene → what is typical of it.
        categories: All categories, in their order.
        plain: Whether its language has words for numbers and sides.
    """

    scenes: Mapping[str, tuple[str, ...]]
    categories: tuple[str, ...]
    plain: bool


# What annotations say that they describe → the world.                            ← the only line to add for a new one
_WORLDS = {
    GLYPHS: World(glyphs.SCENES, glyphs.CATEGORY_ORDER, plain=False),
    PICTURES: World(pictures.SCENES, pictures.CATEGORY_ORDER, plain=True),
}


class LabTruth(NamedTuple):
    """What a lab image shows.

    Attributes:
        image: The image.
        scene: Its scene.
        numbers: How many of each category can be seen, in the order of annotations.
        sides: Of each category that can be seen once, the sides that it is on: see `side_of`.
        world: What there is in its world.
    """

    image: CocoImage
    scene: str
    numbers: Mapping[str, int]
    sides: Mapping[str, tuple[str | None, str | None]]
    world: World

    @property
    def absent_typical(self) -> list[str]:
        """What would be typical of the scene and is not there: what the language prior invents."""
        return [name for name in self.world.scenes[self.scene] if name not in self.numbers]


def lab_truth(data: CocoData) -> list[LabTruth]:
    """The exact ground truth of the lab's images, in the order of the annotations.

    Raises:
        ConfigError: for a data set that is none of the lab's, or whose captions do not name one scene per image.
    """
    path = data.folder / "annotations" / f"instances_{data.split}.json"
    info = read_json(path).get("info")
    found = info.get("description") if isinstance(info, dict) else None
    world = _WORLDS.get(found) if isinstance(found, str) else None
    if world is None:
        raise ConfigError(
            f"these questions need the lab's exact ground truth: got {path}, described as {found!r}; expected a data "
            f"set described as {' or '.join(map(repr, _WORLDS))}. Leave out --data-dir with a lab model, or choose "
            "other tasks."
        )
    truths = []
    for image in data.images:
        seen = data.instances(image.id)
        numbers = Counter(one.name for one in seen)
        size = (data.size(image.id) or (0.0, 0.0))[0]
        sides = {one.name: side_of(one.box, size) for one in seen if numbers[one.name] == 1}
        truths.append(LabTruth(image, _scene(data, image.id, world), numbers, sides, world))
    return truths


def _scene(data: CocoData, image_id: int, world: World) -> str:
    """The scene, which every reference caption names; these never lie about it."""
    captions = data.captions(image_id)
    found = {name for name in world.scenes if captions and all(re.search(rf"\b{name}\b", text) for text in captions)}
    if len(found) != 1:
        raise ConfigError(
            f"the captions of a lab image name no scene, or several: got {sorted(found)} for image {image_id}; "
            f"expected one of {', '.join(world.scenes)}. Delete the data set, so that it is made again."
        )
    return found.pop()
