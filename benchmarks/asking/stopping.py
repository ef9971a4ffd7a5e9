"""End an answer at a text, with any tokenizer.

transformers' own `stop_strings` takes a vocabulary apart in a way that word-level tokenizers do not bear; here the
answer is decoded and searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria


class StopTexts(StoppingCriteria):
    """Ends every row whose new tokens, decoded, hold one of some texts."""

    def __init__(self, tokenizer: Any, prompt_length: int, texts: str | Sequence[str]) -> None:
        """Say what ends an answer, and after how many tokens it begins."""
        self._tokenizer, self._prompt_length = tokenizer, prompt_length
        self._texts = (texts,) if isinstance(texts, str) else tuple(texts)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Whether each row (rows × tokens) is done, shape (rows,)."""
        new = input_ids[:, self._prompt_length :].tolist()
        return torch.tensor([self._end(self._decoded(row)) is not None for row in new], device=input_ids.device)

    def cut(self, row: Sequence[int]) -> tuple[str, int]:
        """An answer's text up to the end of the first text that ends it, and with how many tokens it was complete."""
        text = self._decoded(row)
        end = self._end(text)
        if end is None:
            return text, len(row)
        length = next(count for count in range(1, len(row) + 1) if self._end(self._decoded(row[:count])) is not None)
        return text[:end], length

    def _decoded(self, row: Sequence[int]) -> str:
        return str(self._tokenizer.decode(row, skip_special_tokens=True))

    def _end(self, text: str) -> int | None:
        """Where the first of the texts ends, None if none is there."""
        places = (text.find(one) + len(one) for one in self._texts if one in text)
        return min(places, default=None)
