"""Leave out what is likely made up, where the rest stays a sentence: of a list that ends one, and nowhere else.

    The image shows a kitchen with an oven, a cup and a bowl. There is also a bed.

A list is things with an article or a number before each, "a cup, a bowl and two old chairs", with "with" or the like,
"There is" or a verb such as "shows" before it, and the sentence's end behind it. What is doubtful leaves it, and commas
and "and" are set anew. Where nothing is left of it, "with" goes too, and a sentence "There is ..." goes as a whole, if
another one is left. Every other sentence stays as it is; so does one whose "is" or "are" would not fit what is left,
and one that the next sentence speaks of as "it" or "they".
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..reading import Span, singulars
from .description import Description

_ONE = ("a", "an", "one", "another")
_SEVERAL = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "several", "many")
_BEFORE = (*_ONE, *_SEVERAL, "the", "some")
# Words that no thing in a list has inside: they would make a clause of it, or another thing.
_NOT_INSIDE = (
    *_BEFORE,
    *"and or but with without in on at of to from by for near next beside behind under above over between".split(),
    *"among into onto while that which who where is are was were be being has have as it its there not no".split(),
)
_ITEM = rf"(?:{'|'.join(_BEFORE)}|\d+)(?: (?!(?:{'|'.join(_NOT_INSIDE)})\b)[\w'-]+){{1,4}}"
_LIST = re.compile(
    r"(?P<before>.*?)"
    r"(?P<lead>(?P<adjunct>,? (?:with|including|containing|featuring))|(?P<there>^There (?P<verb>is|are)(?: also)?)"
    r"| (?:shows?|has|have|includes?|contains?|features?|depicts?))"
    rf" (?P<items>{_ITEM}(?:, {_ITEM})*(?:,? and {_ITEM})?)[.!]?\s*",
    re.IGNORECASE | re.DOTALL,
)
_SPOKEN_OF = re.compile(r"(?:It|They|He|She|This|That|These|Those|Its|Their|His|Her|Both|One|Each)\b", re.IGNORECASE)
_BETWEEN = re.compile(r",? and |, ", re.IGNORECASE)


class _Piece(NamedTuple):
    """A part of the text that is kept, and what is written before it."""

    start: int
    end: int
    mark: str = ""


def drop_doubtful(description: Description, above: float) -> Description:
    """The description without the objects whose score is higher; its tokens and doubts are those of what is left.

    Args:
        description: one without scores stays as it is.
        above: in [0, 1].
    """
    text = description.text
    objects = [(one.start, one.end) for one in description.doubts if one.category is not None]
    doubtful = {(one.start, one.end) for one in description.doubts if one.score is not None and one.score > above}
    pieces = [piece for start, end in _sentences(text) for piece in _without(text, (start, end), objects, doubtful)]
    # A text of which nothing would be left says more than none.
    return _of_pieces(description, pieces) if pieces else description


def _sentences(text: str) -> Iterator[Span]:
    """Where sentences stand, with the blanks after each; together they are the text."""
    starts = [sentence[0][1][0] for sentence in singulars(text) if sentence]
    starts = [0, *starts[1:], len(text)]
    yield from itertools.pairwise(starts)


def _without(text: str, sentence: Span, objects: Sequence[Span], doubtful: set[Span]) -> list[_Piece]:
    """What is kept of a sentence."""
    start, end = sentence
    as_it_is = [_Piece(start, end)]
    found = _LIST.fullmatch(text[start:end])
    if found is None or _SPOKEN_OF.match(text, end):
        return as_it_is
    items = list(_items(found["items"], start + found.start("items")))
    heads = [next((span for span in reversed(objects) if low <= span[0] < high), None) for low, high in items]
    kept = [item for item, head in zip(items, heads, strict=True) if head not in doubtful]
    first, last = items[0][0], items[-1][1]
    if not kept and found["there"]:
        return []
    if not kept and found["adjunct"]:
        return [_Piece(start, start + found.start("lead")), _Piece(last, end)]
    fits = kept and not (found["there"] and not _agrees(found["verb"], [text[slice(*item)] for item in kept]))
    if not fits or kept == items:
        return as_it_is
    final = text[items[-2][1] : items[-1][0]] if len(kept) > 2 else " and "
    marks = ["", *[", "] * (len(kept) - 2), final][: len(kept)]
    listed = [_Piece(low, high, mark) for (low, high), mark in zip(kept, marks, strict=True)]
    return [_Piece(start, first), *listed, _Piece(last, end)]


def _items(listed: str, offset: int) -> Iterator[Span]:
    done = 0
    for between in _BETWEEN.finditer(listed):
        yield offset + done, offset + between.start()
        done = between.end()
    yield offset + done, offset + len(listed)


def _agrees(verb: str, items: Sequence[str]) -> bool:
    """Whether "There is" or "There are" fits the things that follow."""
    first = items[0].split()[0].lower()
    if verb.lower() == "is":
        return first in _ONE
    return len(items) > 1 or first in _SEVERAL or first.isdecimal()


def _of_pieces(description: Description, pieces: Sequence[_Piece]) -> Description:
    # What each letter of the old text has become; a comma or "and" goes with the letter after it.
    became = [""] * len(description.text)
    for start, end, mark in pieces:
        became[start:end] = description.text[start:end]
        if mark:
            became[start] = mark + became[start]
    for place in range(len(became) - 1, -1, -1):  # the blank after a last sentence that went
        if became[place].strip():
            break
        became[place] = ""
    ends = [0, *itertools.accumulate(map(len, became))]
    bounds = [0, *itertools.accumulate(len(token.text) for token in description.tokens)]
    tokens = [
        dataclasses.replace(token, text="".join(became[start:end]))
        for token, (start, end) in zip(description.tokens, itertools.pairwise(bounds), strict=True)
    ]
    doubts = [
        dataclasses.replace(doubt, start=ends[doubt.start + 1] - 1, end=ends[doubt.end])
        for doubt in description.doubts
        if became[doubt.start]
    ]
    return dataclasses.replace(
        description,
        text="".join(became),
        tokens=tuple(token for token in tokens if token.text),
        doubts=tuple(doubts),
    )
