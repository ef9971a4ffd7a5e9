"""True captions and false ones of the same images: an object's name is replaced by that of an absent one."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from scr import ConfigError
from scr.steering import Demonstration

from .coco import CocoData
from .pope.task import object_tables
from .sycophancy.task import absent_objects

QUESTION = "Please describe this image in detail."


def demonstrations(data: CocoData, number: int, seed: int) -> list[Demonstration]:
    """Pairs of captions, of as many images, drawn by the seed.

    The true caption is a reference that names an object of the image; in the false one that name is replaced by the
    object that most often accompanies it of those that are neither annotated nor mentioned.

    Args:
        data: with reference captions.
        number: of images.
        seed: of the images drawn; which caption and which object follow from it and the image's id.

    Raises:
        ConfigError: if fewer images can be used.
    """
    tables = object_tables([data.objects(image.id) for image in data.images])
    names = sorted(tables.frequency)
    found: list[Demonstration] = []
    for image in random.Random(f"demonstrations {seed}").sample(list(data.images), len(data.images)):
        if len(found) == number:
            break
        objects, captions = data.objects(image.id), data.captions(image.id)
        absent = absent_objects(objects, captions, names) if captions else []
        named = [(text, name) for text in captions for name in objects if _names(text, name, names)]
        if not absent or not named:
            continue
        text, name = random.Random(f"{seed} {image.id}").choice(named)
        beside = [other for other in tables.co_occurring.get(name, ()) if other in absent]
        false = _of(name).sub((beside or absent)[0], text)
        found.append(Demonstration(image=image.path, question=QUESTION, clean=text, hallucinated=false))
    if len(found) < number:
        raise ConfigError(
            f"too few demonstrations: got {len(found)} images of {data.folder} whose captions name an object; expected "
            f"{number}. Give a data set with more captions, or a smaller --number."
        )
    return found


def _names(text: str, name: str, known: Sequence[str]) -> bool:
    """Whether a text has the name, and no longer one that it is a part of, such as a teddy bear."""
    longer = [other for other in known if name in other and name != other]
    return bool(_of(name).search(text)) and not any(_of(other).search(text) for other in longer)


def _of(name: str) -> re.Pattern[str]:
    return re.compile(rf"\b{re.escape(name)}\b", re.IGNORECASE)
