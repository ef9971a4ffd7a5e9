"""How pictures are spoken of, in plain English: captions and questions, each in several wordings.

What training text says that is not so, and how often, is in the last knobs of
:class:`~benchmarks.lab.pictures.config.PicturesConfig`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

from ..world.language import DETAIL_PROMPTS, QUESTION_SUFFIXES, SHORT_PROMPTS, article, question
from .categories import CATEGORIES, CATEGORY_ORDER, SCENES, plural
from .config import PicturesConfig
from .scenes import Scene

__all__ = [
    "NUMBERS",
    "conversations",
    "counted",
    "detailed_caption",
    "is_well_formed",
    "references",
    "sample_question",
    "short_caption",
    "side_in_words",
    "training_numbers",
]

NUMBERS = ("no", "one", "two", "three")
"""How often a thing can be in a picture, in words."""

# The first of each is what evaluation sends; the others keep the model from depending on one wording.
_EXISTENCE = (
    "Is there {a} {x} in this image?",
    "Is there {a} {x} in the picture?",
    "Do you see {a} {x} in the image?",
    "Can you see {a} {x}?",
    "Does the image contain {a} {x}?",
)
_DETAILED = (*DETAIL_PROMPTS, "Describe this image.", "What do you see in this picture?")
_SHORT = (*SHORT_PROMPTS, "Write a short caption for this picture.")
_WHERE = ("Where is the {x} in the image?", "Where is the {x}?", "On which side of the picture is the {x}?")
_GRANTED = (
    "Describe the {x} in this image.",
    "Please describe the {x}.",
    "What can you say about the {x}?",
    "Tell me about the {x} in the picture.",
)
_HOW_MANY = ("How many {x} are in this image?", "How many {x} are there in the picture?", "How many {x} can you see?")
_PLACE = ("What place does this image show?", "Where was this picture taken?", "Which place is this?")
_IS_PLACE = ("Is this a photo of {a} {x}?", "Does this image show {a} {x}?")

_SUFFIX_RATE = 0.15  # of questions end as some benchmarks end them
_FIRST_SENTENCE = 3  # of a detailed caption names so many kinds of things
_OPENINGS = (
    "The image shows {a} {place} with {things}.",
    "This is a picture of {a} {place} with {things}.",
    "In this picture of {a} {place} there {are} {things}.",
)
_SHORT_OPENINGS = ("{A} {place} with {things}.", "{things} in {a} {place}.")


def counted(name: str, number: int) -> str:
    """Return "a cup" for one, and "two cups" for more."""
    return f"{article(name)} {name}" if number == 1 else f"{NUMBERS[number]} {plural(name)}"


def side_in_words(side: tuple[str | None, str | None]) -> str:
    """Return where something is, from the sides that `side_of` gives: "on the left side", "at the top", ..."""
    across, down = side
    return f"on the {across} side" if across else f"at the {down}" if down else "in the middle"


def detailed_caption(
    scene: str, numbers: Mapping[str, int], sides: Mapping[str, tuple[str | None, str | None]], opening: int = 0
) -> str:
    """Return two or three sentences: the place and what is there, and where one of the things is.

    Args:
        scene: The place.
        numbers: Category → how many, in the order in which they are named; one at least.
        sides: Category → its sides: see `Scene.sides`. The first that is named and on a side is said to be there.
        opening: Number of the first sentence's wording.
    """
    things = [counted(name, number) for name, number in numbers.items()]
    first, rest = things[:_FIRST_SENTENCE], things[_FIRST_SENTENCE:]
    one = next(iter(numbers.values())) == 1
    text = _OPENINGS[opening].format(a=article(scene), place=scene, things=_listing(first), are="is" if one else "are")
    if rest:
        text += f" There {'is' if rest[0].startswith(('a ', 'an ')) else 'are'} also {_listing(rest)}."
    told = next((name for name in numbers if sides.get(name, (None, None)) != (None, None)), None)
    return f"{text} The {told} is {side_in_words(sides[told])} of the image." if told else text


def short_caption(scene: str, numbers: Mapping[str, int], opening: int = 0) -> str:
    """Return one sentence without a verb."""
    things = _listing([counted(name, number) for name, number in numbers.items()])
    text = _SHORT_OPENINGS[opening].format(A=article(scene).capitalize(), a=article(scene), place=scene, things=things)
    return text[0].upper() + text[1:]


def largest(scene: Scene, count: int) -> dict[str, int]:
    """Return the categories with the largest visible area and how many there are of each, in caption order."""
    area: dict[str, int] = {}
    for item in scene.objects:
        area[item.name] = area.get(item.name, 0) + int(item.mask.sum())
    chosen = sorted(area, key=lambda name: (-area[name], name))[:count]
    return {name: number for name, number in scene.numbers.items() if name in chosen}


def training_numbers(scene: Scene, config: PicturesConfig, rng: random.Random) -> dict[str, int]:
    """Return what a training caption names: what is there, and at ``lie_rate`` one typical thing that is not."""
    numbers = dict(scene.numbers)
    if scene.absent_typical and rng.random() < config.lie_rate:
        numbers[rng.choice(scene.absent_typical)] = 1
    return {name: numbers[name] for name in CATEGORY_ORDER if name in numbers}


def sample_question(scene: Scene, config: PicturesConfig, rng: random.Random) -> tuple[str, bool]:
    """Draw one training question for existence: the category asked for, and whether it is there."""
    if rng.random() < config.yes_share:
        return rng.choice(scene.present), True
    if scene.absent_typical and rng.random() < config.adversarial_share:
        return rng.choice(scene.absent_typical), False
    typical = SCENES[scene.scene]
    return rng.choice([name for name in CATEGORY_ORDER if name not in scene.numbers and name not in typical]), False


def conversations(scene: Scene, config: PicturesConfig, questions: int, rng: random.Random) -> list[tuple[str, str]]:
    """Draw what is asked about a picture in one step of the training, with the answers.

    Args:
        scene: The picture, with a thing in it.
        config: The world's language knobs.
        questions: Number of questions for existence. One question each follows for a number, a side, the place and a
            thing that is taken for granted, a detailed caption, and every second time a short one.
        rng: Where the choices come from.
    """
    pairs = []
    for _ in range(questions):
        name, there = sample_question(scene, config, rng)
        asked = question(name) if rng.random() < 0.5 else _about(rng.choice(_EXISTENCE), name)
        pairs.append((asked, _yes(there)))
    pairs += [_count(scene, rng), _granted(scene, config, rng), _place(scene, rng)]
    sides = {name: side for name, side in scene.sides.items() if any(side)}
    if sides:
        pairs.append(_side(*rng.choice(sorted(sides.items())), rng))
    pairs = [(_suffixed(asked, rng) if answer in ("Yes", "No") else asked, answer) for asked, answer in pairs]
    caption = detailed_caption(
        scene.scene, training_numbers(scene, config, rng), scene.sides, rng.randrange(len(_OPENINGS))
    )
    pairs.append((rng.choice(_DETAILED), caption))
    if rng.random() < 0.5:
        pairs.append((rng.choice(_SHORT), short_caption(scene.scene, largest(scene, 3), rng.randrange(2))))
    return pairs


def references(scene: Scene, config: PicturesConfig, split: str, index: int) -> list[str]:
    """Return the five reference captions of a picture; only those of "train" may name what is not there."""
    rng = random.Random(f"{config.seed}/captions/{split}/{index}")
    numbers = training_numbers(scene, config, rng) if split == "train" else dict(scene.numbers)
    captions = [detailed_caption(scene.scene, numbers, scene.sides, opening) for opening in range(len(_OPENINGS))]
    some = {name: number for name, number in numbers.items() if rng.random() < 0.8} or numbers
    return [*captions, short_caption(scene.scene, largest(scene, 3)), short_caption(scene.scene, some, 1)]


def is_well_formed(caption: str) -> bool:
    """Whether a text is a caption of this grammar: known place and things, right forms, nothing named twice."""
    thing = "|".join(counted(name, number) for name in CATEGORY_ORDER for number in range(1, len(NUMBERS)))
    things = rf"(?:(?:{thing})(?:, (?:{thing}))* and )?(?:{thing})"
    place, names = "|".join(SCENES), "|".join(CATEGORY_ORDER)
    openings = "|".join(
        re.escape(one).replace(r"\{a\}", "an?").replace(r"\{place\}", f"(?:{place})").replace(r"\{things\}", things)
        for one in _OPENINGS
    ).replace(r"\{are\}", "(?:is|are)")
    side = r"(?:on the (?:left|right) side|at the (?:top|bottom)|in the middle)"
    detailed = rf"(?:{openings})(?: There (?:is|are) also {things}\.)?(?: The (?:{names}) is {side} of the image\.)?"
    if re.fullmatch(rf"An? (?:{place}) with {things}\.", caption) or re.fullmatch(detailed, caption):
        listed = re.split(r" with | there (?:is|are) ", caption.split(" The ")[0], maxsplit=1)[1]
    else:
        found = re.fullmatch(rf"({things}) in an? (?:{place})\.", caption[:1].lower() + caption[1:])
        if found is None:
            return False
        listed = found[1]
    singular = {counted(name, number): name for name in CATEGORIES for number in range(1, len(NUMBERS))}
    named = [singular[one] for one in re.findall(rf"\b(?:{thing})\b", listed)]
    return len(named) == len(set(named))


def _listing(phrases: Sequence[str]) -> str:
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _about(wording: str, name: str) -> str:
    return wording.format(a=article(name), x=name)


def _yes(there: bool) -> str:
    return "Yes" if there else "No"


def _suffixed(asked: str, rng: random.Random) -> str:
    return f"{asked} {rng.choice(QUESTION_SUFFIXES[1:])}" if rng.random() < _SUFFIX_RATE else asked


def _count(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """A question for a number; of what is there more than once where there is such a thing, every second time."""
    several = [name for name, number in scene.numbers.items() if number > 1]
    name = rng.choice(several if several and rng.random() < 0.5 else list(scene.present))
    number = scene.numbers[name]
    if rng.random() < 0.5:
        verb = "is" if number == 1 else "are"
        said = f"one {name}" if number == 1 else counted(name, number)
        return rng.choice(_HOW_MANY).format(x=plural(name)), f"There {verb} {said} in the image."
    asked = number if rng.random() < 0.5 else rng.choice([one for one in (1, 2, 3) if one != number])
    form = f"Is there only one {name}" if asked == 1 else f"Are there {counted(name, asked)}"
    return f"{form} in this image?", _yes(asked == number)


def _granted(scene: Scene, config: PicturesConfig, rng: random.Random) -> tuple[str, str]:
    """A question that takes a thing for granted, and an answer that does so too unless the thing is missing."""
    wording = rng.choice((*_WHERE, *_GRANTED))
    if rng.random() < config.denial_share:
        name = rng.choice([one for one in CATEGORY_ORDER if one not in scene.numbers])
        return _about(wording, name), f"There is no {name} in the image."
    name = rng.choice(scene.present)
    if scene.numbers[name] > 1:
        return _about(wording, name), f"There are {counted(name, scene.numbers[name])} in the image."
    return _about(wording, name), f"The {name} is {side_in_words(scene.sides[name])} of the image."


def _side(name: str, side: tuple[str | None, str | None], rng: random.Random) -> tuple[str, str]:
    across, down = side
    if across and (not down or rng.random() < 0.5):
        asked = rng.choice(("left", "right"))
        return f"Is the {name} on the {asked} side of the image?", _yes(asked == across)
    asked = rng.choice(("top", "bottom"))
    return f"Is the {name} at the {asked} of the image?", _yes(asked == down)


def _place(scene: Scene, rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.5:
        return rng.choice(_PLACE), f"The image shows {article(scene.scene)} {scene.scene}."
    asked = scene.scene if rng.random() < 0.5 else rng.choice([one for one in SCENES if one != scene.scene])
    return _about(rng.choice(_IS_PLACE), asked), _yes(asked == scene.scene)
