"""VQAv2's accuracy of a short answer against ten people's, and how answers are made alike before. Standard library."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

RULES: dict[str, str] = {
    "vqav2": "the official vqaEval.py: answers are made alike only where the ten people do not all agree",
    "normalized": "answers are always made alike, so that 'Yes.' matches ten times 'yes'",
}
"""Name of a rule → one line on what it does."""

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NUMBERS = {
    word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}
_ARTICLES = frozenset(("a", "an", "the"))
_DIGITS_WITH_COMMA = re.compile(r"\d,\d")
# The official pattern is `(?!<=\d)(\.)(?!\d)`: meant is "not after a digit", written is something that always holds.
# So every full stop goes that has no digit behind it. And `re.UNICODE`, which is 32, is passed where `sub` takes the
# number of replacements.
_FULL_STOP = re.compile(r"\.(?!\d)")
_OFFICIAL_FULL_STOPS = 32

# Words whose apostrophes people leave out. Each is found with exactly one of its apostrophes left out. "I'm" never is:
# the text is in lower case.
_SHORT_FORMS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's I'd've I'm I've isn't it'd it'd've it'll ma'am mightn't mightn't've might've "
    "mustn't must've needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've "
    "somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've "
    "something'll that's there'd there'd've there're there's they'd they'd've they'll they're they've wasn't "
    "we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll "
    "who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd "
    "you'd've you'll you're you've"
).split()


def accuracy(answer: str, people: Sequence[Mapping[str, Any]], rule: str = "vqav2") -> float:
    """How right an answer is, 0 to 1: the mean over people of min(1, others who gave this answer / 3).

    Source: GT-Vision-Lab/VQA a013f00, PythonEvaluationTools/vqaEvaluation/vqaEval.py. As there, "others" are the rows
    that differ from a person's row in any field: rows without an `answer_id` that are equal count as one person.

    Args:
        answer: what was answered.
        people: a row for each person, with the field `answer`.
        rule: a name of `RULES`.

    Raises:
        ValueError: for an unknown rule, or no people.
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule for VQAv2: got {rule!r}; expected one of {', '.join(RULES)}. Choose one.")
    if not people:
        raise ValueError("no one to compare with: got no answers of people; expected ten. Check the annotations.")
    said = _one_line(answer)
    rows = [{**row, "answer": _one_line(str(row["answer"]))} for row in people]
    if rule == "normalized" or len({row["answer"] for row in rows}) > 1:
        alike = _ALIKE[rule]
        said = alike(said)
        rows = [{**row, "answer": alike(row["answer"])} for row in rows]
    matching = [row for row in rows if row["answer"] == said]
    return sum(min(1.0, sum(other != row for other in matching) / 3) for row in rows) / len(rows)


def normalize(text: str, full_stops: int = 0) -> str:
    """An answer in the form in which answers are compared.

    Punctuation goes: each kind of sign leaves a blank, but nothing at all where it touches a blank anywhere in the text
    or a comma stands between digits anywhere. Full stops go that have no digit behind them. Then lower case, number
    words to ten as digits, no articles, apostrophes of short forms put in. Words are parted by one blank.

    Args:
        text: the answer.
        full_stops: how many full stops go at most; 0 for all.
    """
    glued = _DIGITS_WITH_COMMA.search(text) is not None
    signs = {ord(sign): None if glued or f"{sign} " in text or f" {sign}" in text else " " for sign in _PUNCTUATION}
    cleaned = _FULL_STOP.sub("", text.translate(signs), count=full_stops)
    words = (_NUMBERS.get(word, word) for word in cleaned.lower().split())
    return " ".join(SHORT_FORMS.get(word, word) for word in words if word not in _ARTICLES)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _official(text: str) -> str:
    return normalize(text, _OFFICIAL_FULL_STOPS)


def _short_forms() -> dict[str, str]:
    places = ((word, at) for word in _SHORT_FORMS for at, letter in enumerate(word) if letter == "'")
    return {word[:at] + word[at + 1 :]: word for word, at in places}


# Those that do not follow, slips included: "somebody'd" loses its apostrophe.
SHORT_FORMS: dict[str, str] = {
    **_short_forms(),
    "twas": "'twas",
    "somebody'd": "somebodyd",
    "ow's'at": "'ow's'at",
    "'ows'at": "'ow's'at",
    "'ow'sat": "'ow's'at",
}
"""Short form as it may be written → as it is compared: the official table, less two lines that change nothing."""

_ALIKE: dict[str, Callable[[str], str]] = {"vqav2": _official, "normalized": normalize}
