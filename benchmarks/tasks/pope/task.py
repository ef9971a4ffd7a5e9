"""POPE: is there a certain object in the image? Three questions to which the answer is yes, three to which it is no."""

from __future__ import annotations

import random
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, NamedTuple

from scr import ConfigError

from ..base import Sample
from ..coco import QUESTION_FOLDER, CocoData, CocoImage
from ..yes_no import YesNoTask

_VOWELS = "aeiou"
_QUESTION = re.compile(r"Is there an? (.+) in the (?:image|imange)\?")  # the official files have the typo


class ImageObjects(NamedTuple):
    """An image, and the names of its objects, each once, in the order of the annotations."""

    image: CocoImage
    objects: Sequence[str]


class ObjectTables(NamedTuple):
    """What negatives are drawn from.

    Attributes:
        frequency: object → number of images that show it, in the order of first occurrence.
        popular: all objects, most frequent first; ties in the order of first occurrence.
        co_occurring: object → others in its images, most frequently together first; ties likewise.
    """

    frequency: Mapping[str, int]
    popular: Sequence[str]
    co_occurring: Mapping[str, Sequence[str]]


class Pope(YesNoTask):
    """The construction of all three splits, from COCO annotations.

    The official script sets no seed; here `random.Random(seed)` makes its draws in its order, as if it were run for one
    split alone: first the sample of images, which therefore is the same for all splits, then the negatives. The
    question of an object is "Is there a X in the image?", "an" before a vowel.

    Source: main.py and utils.py of RUCAIBox/POPE 3df3ba1.
    """

    version = 1
    paper = "Li et al. 2023, Evaluating Object Hallucination in Large Vision-Language Models, arXiv:2305.10355"
    checked_against = "RUCAIBox/POPE 3df3ba1: its 3,000 popular and adversarial negatives, given its published tables"
    rule = "pope"
    # The rule reads the first sentence; 32 tokens hold it, and models that answer in a word stop by themselves.
    max_new_tokens = 32
    options: ClassVar[Mapping[str, int]] = MappingProxyType({"img_num": 500, "sample_num": 3})

    def samples(self, data: CocoData, seed: int) -> list[Sample]:
        """Six questions per image, yes and no in turn, of at most 500 images with at least 3 objects.

        Object frequencies are those of all these images, whatever part of them is asked about later. Where the data
        set's folder has the official file, `pope/coco_pope_<split>.json`, its questions are asked instead.

        Raises:
            ConfigError: where an image shows so many of the objects that three are not left to ask about, or the file
                is no question file or names an image that the annotations do not have.
        """
        official = data.folder / QUESTION_FOLDER / f"coco_{self.name}.json"
        if official.is_file():
            return official_samples(data, official)
        generator = random.Random(seed)
        chosen = sample_images(data, generator, self.options["img_num"], self.options["sample_num"])
        tables = object_tables([row.objects for row in chosen])
        samples = []
        for row in chosen:
            asked: list[str] = []
            for positive in row.objects[: self.options["sample_num"]]:
                asked.append(positive)
                asked.append(self.negative(positive, row.objects, asked, tables, generator))
            for number, name in enumerate(asked):
                target = "no" if number % 2 else "yes"
                sample_id = f"{row.image.id}-{number + 1}"
                facts = data.facts(row.image.id, name)
                samples.append(
                    Sample(id=sample_id, image=row.image.path, prompt=question(name), target=target, facts=facts)
                )
        return samples

    def negative(
        self,
        positive: str,
        objects: Sequence[str],
        asked: Sequence[str],
        tables: ObjectTables,
        generator: random.Random,
    ) -> str:
        """An object to ask about that is not in the image: the first candidate, else any object.

        Args:
            positive: the object that was asked about just before.
            objects: the image's objects.
            asked: all objects that the image was asked about so far.
            tables: frequencies over all images.
            generator: source of draws.

        Raises:
            ConfigError: where none is left.
        """
        found = _first(self.candidates(positive, tables), objects, asked)
        return found if found is not None else _draw(objects, asked, tables, generator)

    @abstractmethod
    def candidates(self, positive: str, tables: ObjectTables) -> Sequence[str]:
        """Objects to ask about after `positive`, the best first; one that is in the image or was asked is no choice."""


class PopeRandom(Pope):
    """Negatives: any object."""

    name = "pope_random"

    def candidates(self, positive: str, tables: ObjectTables) -> Sequence[str]:
        """None: every negative is drawn."""
        return ()


class PopePopular(Pope):
    """Negatives: the most frequent objects of the data set."""

    name = "pope_popular"

    def candidates(self, positive: str, tables: ObjectTables) -> Sequence[str]:
        """All objects, the most frequent first."""
        return tables.popular


class PopeAdversarial(Pope):
    """Negatives: the objects that most often accompany the positive one."""

    name = "pope_adversarial"

    def candidates(self, positive: str, tables: ObjectTables) -> Sequence[str]:
        """The objects that accompany the positive, the most frequent first."""
        return tables.co_occurring.get(positive, ())


def sample_images(data: CocoData, generator: random.Random, img_num: int, sample_num: int) -> list[ImageObjects]:
    """Draw images without repetition among those with at least `sample_num` objects; all if there are too few."""
    rows = [ImageObjects(image, data.objects(image.id)) for image in data.images]
    eligible = [row for row in rows if len(row.objects) >= sample_num]
    return generator.sample(eligible, min(img_num, len(eligible)))


def object_tables(images: Sequence[Sequence[str]]) -> ObjectTables:
    """Count objects, and pairs of them, over the objects of each image."""
    frequency: Counter[str] = Counter()
    together: dict[str, Counter[str]] = {}
    for objects in images:
        frequency.update(objects)
        for name in objects:
            together.setdefault(name, Counter()).update(other for other in objects if other != name)
    # Both sorts are stable over counters that remember the order of first occurrence, as the official ones.
    return ObjectTables(
        frequency=dict(frequency),
        popular=_most_frequent_first(frequency),
        co_occurring={name: _most_frequent_first(counts) for name, counts in together.items()},
    )


def official_samples(data: CocoData, path: Path) -> list[Sample]:
    """The questions of an official file, in its order, those of an image together.

    Raises:
        ConfigError: for a file that cannot be read, or an image that is not among the data set's.
    """
    from .scorer import read_questions

    asked = read_questions(path)
    images = {image.path.name: image for image in data.images}
    of_image: dict[str, list[Sample]] = {}
    for one in asked:
        if one.image not in images:
            raise ConfigError(
                f"{path} asks about another image: got {one.image!r}; expected one of split {data.split!r}. Give the "
                "annotations of the split that it was made from."
            )
        image, together = images[one.image], of_image.setdefault(one.image, [])
        name = f"{image.id}-{len(together) + 1}"
        facts = data.facts(image.id, asked_object(one.prompt))
        together.append(Sample(id=name, image=image.path, prompt=one.prompt, target=one.target, facts=facts))
    return [sample for together in of_image.values() for sample in together]


def question(name: str) -> str:
    """POPE's question about an object."""
    article = "an" if name[:1].lower() in _VOWELS else "a"
    return f"Is there {article} {name} in the image?"


def asked_object(prompt: str) -> str | None:
    """The object that one of POPE's questions is about; None for another question."""
    match = _QUESTION.fullmatch(prompt.strip())
    return match[1] if match is not None else None


def _most_frequent_first(counts: Mapping[str, int]) -> list[str]:
    return sorted(counts, key=lambda name: -counts[name])


def _first(candidates: Sequence[str], objects: Sequence[str], asked: Sequence[str]) -> str | None:
    return next((name for name in candidates if name not in asked and name not in objects), None)


def _draw(objects: Sequence[str], asked: Sequence[str], tables: ObjectTables, generator: random.Random) -> str:
    names = list(tables.frequency)
    if _first(names, objects, asked) is None:
        raise ConfigError(
            f"no object is left to ask about: got {len(names)} objects in the data set, {len(objects)} of them in one "
            "image; expected at least 3 that it does not show. Use more images or categories."
        )
    # Drawn until one fits, not from those that fit: the official loop consumes the same random numbers.
    while True:
        name = generator.choice(names)
        if name not in asked and name not in objects:
            return name
