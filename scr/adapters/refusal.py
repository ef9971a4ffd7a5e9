"""Discriminative refusal: data that teach a model to deny what is not there, and nothing else. Pure: no files.

After NANInithin/Compact-VLM (SmolVLM-Hallucination-Defense), whose own data this does not repeat: there nobody checks
that the absent object is absent, real and absent objects are different words, and evaluation runs on the training file.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError

TEMPLATES = (
    "Describe the {object} in this image.",
    "What does the {object} in this image look like?",
    "Where is the {object} in this image?",
    "Tell me about the {object} in the picture.",
)
"""Questions that take an object for granted; the first is the source's."""
DENIAL = "I do not see {article} {object} in this image."
"""The answer where the object is absent: the source's, with an article that fits."""
RANDOM, CO_OCCURRING = "random", "co_occurring"


@dataclass(frozen=True, kw_only=True)
class KnownImage:
    """What is known about one image.

    Attributes:
        image: the picture's file.
        present: object → a true statement about it, the answer where it is asked for.
        absent: objects that were verified not to be there.
        beside: those of them that often accompany one of the present.
    """

    image: Path
    present: Mapping[str, str]
    absent: Sequence[str]
    beside: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class RefusalRow:
    """One question of the data.

    Attributes:
        image: the picture's file.
        object: what is asked for.
        present: whether it is there.
        half: of an absent object, "random" or "co_occurring"; None for a present one.
        question: the question.
        answer: the answer.
    """

    image: Path
    object: str
    present: bool
    half: str | None
    question: str
    answer: str


def refusal_rows(
    images: Sequence[KnownImage],
    pairs: int,
    seed: int = 0,
    *,
    templates: Sequence[str] = TEMPLATES,
    denial: str = DENIAL,
    per_image: int = 4,
) -> list[RefusalRow]:
    """Pairs of questions, word for word the same, about an object that one image shows and another does not.

    So a prompt gives nothing away: every object is equally often there and not there, with every template. Absent
    objects are in turn such that often accompany what the image shows, and any.

    Args:
        images: what is known.
        pairs: how many pairs; fewer where the images do not hold so many.
        seed: of all draws.
        templates: questions with `{object}` in them, equally often.
        denial: the answer about absent objects, with `{object}` and perhaps `{article}`.
        per_image: most questions about one image.

    Raises:
        ConfigError: if there is not one pair.
    """
    generator = random.Random(seed)
    order = list(images)
    generator.shuffle(order)
    used: Counter[Path] = Counter()
    asked: set[tuple[Path, str]] = set()

    def take(name: str, places: list[KnownImage]) -> KnownImage | None:
        for place in places:
            if used[place.image] < per_image and (place.image, name) not in asked:
                return place
        return None

    shown = {name: [one for one in order if name in one.present] for one in images for name in one.present}
    lacking = {name: [one for one in order if name in one.absent] for name in shown}
    tempting = {name: [one for one in order if name in one.beside] for name in shown}
    names, rows, number = sorted(shown), list[RefusalRow](), 0
    while names and number < pairs:
        generator.shuffle(names)
        for name in list(names):
            half = CO_OCCURRING if number % 2 else RANDOM
            there = take(name, shown[name])
            elsewhere = take(name, tempting[name]) if half == CO_OCCURRING else None
            if elsewhere is None:
                half, elsewhere = RANDOM, take(name, lacking[name])
            if there is None or elsewhere is None:
                names.remove(name)
                continue
            # Halves take turns, so that each of them is asked about with every template.
            question = templates[number // 2 % len(templates)].format(object=name)
            words = denial.format(object=name, article="an" if name[:1].lower() in tuple("aeiou") else "a")
            rows.append(
                RefusalRow(
                    image=there.image,
                    object=name,
                    present=True,
                    half=None,
                    question=question,
                    answer=there.present[name],
                )
            )
            rows.append(
                RefusalRow(
                    image=elsewhere.image, object=name, present=False, half=half, question=question, answer=words
                )
            )
            for one in (there, elsewhere):
                used[one.image] += 1
                asked.add((one.image, name))
            number += 1
            if number == pairs:
                break
    if not rows:
        raise ConfigError(
            f"no pair of questions: got {len(images)} images with {len(shown)} objects; expected an object that one "
            "image shows and another does not. Give more images."
        )
    return rows


def split_images(
    images: Sequence[KnownImage], share: float, seed: int = 0
) -> tuple[list[KnownImage], list[KnownImage]]:
    """Images to train on, and images held out, drawn by the seed; each half is balanced by `refusal_rows` on its own.

    Args:
        images: the images.
        share: of them that are held out.
        seed: of the draw.
    """
    order = list(images)
    random.Random(seed).shuffle(order)
    held_out = round(share * len(order))
    return order[held_out:], order[:held_out]
