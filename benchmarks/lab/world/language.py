"""The lab's language: captions, questions, and the prior that training text leans on.

The prior is built in three ways, each a knob of :class:`~benchmarks.lab.world.config.WorldConfig`: a training caption
sometimes names an object that is typical of the scene and not there (``lie_rate``); "yes" is the more frequent answer
(``yes_share``); and questions for typical but absent objects are rare while the prior is learnt
(``Recipe.first_adversarial_share``). The short last stage asks them often (``adversarial_share``), and the final
weights lie between both. References of val and test never lie.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from .categories import CATEGORY_ORDER, SCENES
from .config import WorldConfig
from .scenes import LabImage

__all__ = [
    "DETAIL_PROMPTS",
    "QUESTION_SUFFIXES",
    "SHORT_PROMPTS",
    "all_words",
    "article",
    "detailed_caption",
    "is_well_formed",
    "listing",
    "question",
    "references",
    "sample_question",
    "short_caption",
    "training_objects",
]

# The first of each is what evaluation sends; the others keep the model from depending on one wording.
DETAIL_PROMPTS = (
    "Please describe this image in detail.",
    "Describe this image in detail.",
    "Describe the image.",
    "What is shown in this image?",
)
SHORT_PROMPTS = (
    "Generate a short caption of the image.",
    "Provide a one-sentence caption for the provided image.",
    "Describe the image in one short sentence.",
)
# What benchmarks append to a yes/no question; "" first, because POPE appends nothing.
QUESTION_SUFFIXES = (
    "",
    "Please answer this question with one word.",
    "Please answer yes or no.",
    "Answer the question using a single word or phrase.",
)
# Sentences of a detailed caption: this many objects in the first, the rest in a second.
_FIRST_SENTENCE = 3
_REFERENCE_OPENINGS = ("A photo of a {} with {}.", "There is {1} in the {0}.", "A {} scene with {}.")


def article(noun: str) -> str:
    """Return "an" before a vowel and "a" otherwise, as POPE's questions do."""
    return "an" if noun[0] in "aeiou" else "a"


def listing(nouns: Sequence[str]) -> str:
    """Return "a cup, a bowl and a knife"."""
    phrases = [f"{article(noun)} {noun}" for noun in nouns]
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def question(noun: str) -> str:
    """Return POPE's question for a category, word for word."""
    return f"Is there {article(noun)} {noun} in the image?"


def detailed_caption(scene: str, names: Sequence[str]) -> str:
    """Return one or two sentences naming all of ``names`` in the order given."""
    text = f"The image shows {article(scene)} {scene} with {listing(names[:_FIRST_SENTENCE])}."
    rest = names[_FIRST_SENTENCE:]
    return f"{text} There is also {listing(rest)}." if rest else text


def short_caption(scene: str, names: Sequence[str]) -> str:
    """Return one sentence without a verb."""
    return f"{article(scene).capitalize()} {scene} with {listing(names)}."


def largest(image: LabImage, count: int) -> list[str]:
    """Return the categories with the largest visible area, in caption order."""
    area: dict[str, int] = {}
    for item in image.objects:
        area[item.name] = area.get(item.name, 0) + int(item.mask.sum())
    chosen = sorted(area, key=lambda name: (-area[name], name))[:count]
    return [name for name in CATEGORY_ORDER if name in chosen]


def training_objects(image: LabImage, config: WorldConfig, rng: random.Random) -> list[str]:
    """Return what a training caption names: what is there, and at ``lie_rate`` one typical thing that is not."""
    named = set(image.present)
    if image.absent_typical and rng.random() < config.lie_rate:
        named.add(rng.choice(image.absent_typical))
    return [name for name in CATEGORY_ORDER if name in named]


def sample_question(image: LabImage, config: WorldConfig, rng: random.Random) -> tuple[str, bool]:
    """Draw one training question: the category asked for, and whether it is there."""
    present = image.present
    if rng.random() < config.yes_share:
        return rng.choice(present), True
    typical = image.absent_typical
    if typical and rng.random() < config.adversarial_share:
        return rng.choice(typical), False
    other = [name for name in CATEGORY_ORDER if name not in present and name not in typical]
    return rng.choice(other), False


def references(image: LabImage, config: WorldConfig, split: str, index: int) -> list[str]:
    """Return the five reference captions of an image; only those of "train" may name what is not there."""
    rng = random.Random(f"{config.seed}/captions/{split}/{index}")
    named = training_objects(image, config, rng) if split == "train" else list(image.present)
    captions = [detailed_caption(image.scene, named), short_caption(image.scene, largest(image, 3))]
    for opening in _REFERENCE_OPENINGS:
        some = [name for name in named if rng.random() < 0.8] or named
        captions.append(opening.format(image.scene, listing(some)))
    return captions


def is_well_formed(caption: str) -> bool:
    """Whether a text is a caption of the lab's grammar: known scene, known objects, right articles, no repetition."""
    scenes = "|".join(SCENES)
    things = "|".join(f"{article(name)} {name}" for name in CATEGORY_ORDER)
    several = rf"(?:(?:{things})(?:, (?:{things}))* and )?(?:{things})"
    opening = rf"(?:The image shows an? (?:{scenes})|An? (?:{scenes})) with {several}\."
    if not re.fullmatch(rf"{opening}(?: There is also {several}\.)?", caption):
        return False
    named = re.findall(rf"\b(?:{things})\b", caption.split(" with ", 1)[1])
    return len(named) == len(set(named))


def all_words() -> list[str]:
    """Return every word and mark of the lab's language, lower case, sorted: the tokenizer's vocabulary."""
    texts = [*CATEGORY_ORDER, *SCENES, *DETAIL_PROMPTS, *SHORT_PROMPTS, *QUESTION_SUFFIXES]
    texts += [opening.format("", "") for opening in _REFERENCE_OPENINGS]
    texts += ["The image shows a kitchen with an oven, a cup and a bowl. There is also a bed.", question("cup")]
    texts += ["USER: ASSISTANT: yes no are is it does do you see not if only what which how many"]
    return sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())})
