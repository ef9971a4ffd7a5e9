"""In which words two texts differ, by the places of the words. Standard library only."""

from __future__ import annotations

import difflib
import re

Spans = list[tuple[int, int]]
"""Places in a text: the first character of a run of words, and one after its last."""


def differing_words(first: str, other: str) -> tuple[Spans, Spans]:
    """Where each of two texts has words that the other one lacks there; words are what blanks separate."""
    words = [list(re.finditer(r"\S+", text)) for text in (first, other)]
    before, after = ([one.group() for one in text] for text in words)
    # No junk: in a text of 200 words "a" would be one, and the words around it would not be matched.
    matcher = difflib.SequenceMatcher(a=before, b=after, autojunk=False)
    spans: tuple[Spans, Spans] = ([], [])
    for operation, *bounds in matcher.get_opcodes():
        if operation != "equal":
            for text, found, low, high in zip(words, spans, bounds[::2], bounds[1::2], strict=True):
                if high > low:
                    found.append((text[low].start(), text[high - 1].end()))
    return spans
