"""Which part of a text each of its tokens wrote."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..reading import Span


class Written(NamedTuple):
    """An answer as text.

    Attributes:
        text: without blanks at both ends.
        spans: of each token the characters that it wrote; none of a special token, or of one that begins a letter.
    """

    text: str
    spans: list[Span]


def write(tokenizer: Any, tokens: Sequence[int]) -> Written:
    """An answer's text and its tokens' places in it, which together are the text.

    Tokens are decoded one more at a time, as what one writes depends on those before it: a blank, half a letter.
    """
    whole = _decode(tokenizer, tokens)
    text = whole.strip()
    before = len(whole) - len(whole.lstrip())
    ends = [0]
    for count in range(1, len(tokens)):
        # What is not final yet, such as half a letter, is no part of the whole.
        final = _shared(_decode(tokenizer, tokens[:count]), whole)
        ends.append(max(ends[-1], min(len(text), final - before)))
    ends.append(len(text))
    return Written(text, list(itertools.pairwise(ends))[: len(tokens)])


def token_at(spans: Sequence[Span], place: int) -> int:
    """The token that wrote the character at a place."""
    return next(index for index, (start, end) in enumerate(spans) if start <= place < end)


def _shared(first: str, second: str) -> int:
    """With how many equal letters two texts begin."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(first), len(second)))


def _decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=True))
