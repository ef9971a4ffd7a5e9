"""What a batch of answers said, as measures of doubt read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from .words import ContentWord


class SaidWord(NamedTuple):
    """A content word, and which of its answer's tokens is its first."""

    word: ContentWord
    token: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Said:
    """A batch of answers about one image each.

    Attributes:
        model: the model, without the method that chose the words.
        processor: its processor.
        images: the pictures.
        inputs: what `generate` got.
        answers: token ids of each answer, special ones included.
        logprobs: of each answer's tokens, in nats: see `scr.describing.doubts.forced.token_logprobs`.
        words: the content words of each answer.
    """

    model: Any
    processor: Any
    images: Sequence[Image.Image]
    inputs: dict[str, Any]
    answers: Sequence[Sequence[int]]
    logprobs: Sequence[Float[Tensor, "tokens"]]
    words: Sequence[Sequence[SaidWord]]
