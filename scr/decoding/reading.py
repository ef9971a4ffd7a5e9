"""How the tokens of one forward attend in the last block, recomputed from its queries and keys alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from .._hooks import Attending, AttentionPlan, LayerAttention, attending, find_family

Reader = Callable[[Callable[[], Any]], tuple[Any, Float[Tensor, "rows keys"]]]
"""Runs a forward, and says what it put out and how the last token of each row attended to every key."""


class _LastRow(AttentionPlan):
    row: Float[Tensor, "rows keys"]

    def __init__(self, block: int) -> None:
        self._block = block

    def attend(self, attention: LayerAttention) -> None:
        if attention.layer == self._block:
            weights = attention.weights(attention.last_queries())
            self.row = attention.highest_over_heads(weights)[:, 0]


def last_block_reader(model: PreTrainedModel) -> Reader:
    """Reads the highest of the last block's heads, of a model that is tapped by `tap_attention`.

    Of a hybrid, the last block that has any.
    """
    last = max(find_family(model).attention_modules(model))

    def read(forward: Callable[[], Any]) -> tuple[Any, Float[Tensor, "rows keys"]]:
        plan = _LastRow(last)
        with attending(model, [Attending(slice(None), plan)]):
            outputs = forward()
        return outputs, plan.row

    return read
