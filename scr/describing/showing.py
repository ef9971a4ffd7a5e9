"""A text whose doubtful words are underlined, as HTML. Standard library only."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import NamedTuple

_RED = "200, 30, 30"
_UNSCORED = "text-decoration: underline dotted; text-underline-offset: 3px"


class Underline(NamedTuple):
    """A word to underline.

    Attributes:
        start: its place in the text, in characters.
        end: one after its last.
        strength: in [0, 1], which decides colour and width; None for a dotted line.
        why: what a pointer over the word shows.
    """

    start: int
    end: int
    strength: float | None
    why: str


def underlined(text: str, underlines: Iterable[Underline]) -> str:
    """The text as HTML; the underlines come in its order and do not overlap."""
    parts, done = [], 0
    for one in underlines:
        parts.append(html.escape(text[done : one.start]))
        word, why = html.escape(text[one.start : one.end]), html.escape(one.why)
        parts.append(f'<span style="{_style(one.strength)}" title="{why}">{word}</span>')
        done = one.end
    return "".join([*parts, html.escape(text[done:])])


def _style(strength: float | None) -> str:
    if strength is None:
        return _UNSCORED
    width = f"{1 + 3 * strength:.1f}px"
    return f"text-decoration: underline rgba({_RED}, {strength:.2f}) {width}; text-underline-offset: 3px"
