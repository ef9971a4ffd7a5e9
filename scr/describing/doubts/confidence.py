"""How sure the model was of a word: the probability of its first token."""

from __future__ import annotations

from .said import Said


def confidence(said: Said) -> list[list[float | None]]:
    """The probability of the first token of each content word of each answer, in [0, 1]."""
    return [
        [float(row[one.token].exp()) for one in words] for row, words in zip(said.logprobs, said.words, strict=True)
    ]
