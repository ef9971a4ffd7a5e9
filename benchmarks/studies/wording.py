"""In which words an answer differs from another one. Standard library only."""

from __future__ import annotations

import difflib
from typing import Literal, NamedTuple

Kind = Literal["same", "added", "removed"]


class Piece(NamedTuple):
    """Consecutive words of an answer, or words that it lacks.

    Attributes:
        kind: "same": in both; "added": in this answer alone; "removed": in the first answer alone.
        text: the words, one blank between them.
    """

    kind: Kind
    text: str


def word_differences(first: str, other: str) -> list[Piece]:
    """The pieces of `other`, and between them what it lacks of `first`; words are what blanks separate.

    Args:
        first: the answer to compare with.
        other: the answer to show.

    Returns:
        Pieces in order; without the removed ones they are `other`, without the added ones `first`, but for blanks.
    """
    before, after = first.split(), other.split()
    pieces: list[Piece] = []
    # No junk: in a caption of 200 words "a" would be one, and the words around it would not be matched.
    matcher = difflib.SequenceMatcher(a=before, b=after, autojunk=False)
    for operation, low, high, start, end in matcher.get_opcodes():
        if operation == "equal":
            pieces.append(Piece("same", " ".join(after[start:end])))
            continue
        if high > low:
            pieces.append(Piece("removed", " ".join(before[low:high])))
        if end > start:
            pieces.append(Piece("added", " ".join(after[start:end])))
    return pieces


def marked(pieces: list[Piece]) -> str:
    """The pieces as plain text: "there is [-a dog] [+two cats] here"."""
    marks = {"same": "{}", "added": "[+{}]", "removed": "[-{}]"}
    return " ".join(marks[piece.kind].format(piece.text) for piece in pieces)
