"""Attention written out in a few lines, whole maps and no cache: what plans are held to."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from reference import decoder_of
from torch import Tensor

Change = Callable[[int, Tensor], Tensor]


@contextlib.contextmanager
def attention_by_hand(
    model: Any,
    change: Change = lambda layer, scores: scores,
    hidden: Change | None = None,
    output: Callable[[int, Tensor, Tensor], Tensor] = lambda layer, scores, output: output,
) -> Iterator[None]:
    """Inside, the decoder of a model loaded with eager attention computes it here, for every token of every row.

    Args:
        model: the model.
        change: block and scores (batch, heads, seq, keys) → scores before mask and softmax.
        hidden: block and scores → which of them are masked, too.
        output: block, scores and what heads give (batch, seq, heads, dim) → what goes into the output projection.
    """
    layers = decoder_of(model).layers
    own = {id(layer.self_attn) for layer in layers if hasattr(layer, "self_attn")}
    place = sys.modules[type(layers[-1].self_attn).__module__]
    eager = place.eager_attention_forward

    def attend(module, query, key, value, attention_mask=None, *, scaling, **kwargs):
        if id(module) not in own:
            return eager(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        mask = attention_mask
        key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
        scores = change(module.layer_idx, query @ key.transpose(2, 3) * scaling)
        seen = scores + mask if mask is not None else scores.masked_fill(~causal(scores), -torch.inf)
        if hidden is not None:
            seen = seen.masked_fill(hidden(module.layer_idx, scores), torch.finfo(seen.dtype).min)
        given = (seen.softmax(dim=-1) @ value).transpose(1, 2)
        return output(module.layer_idx, scores, given).contiguous(), None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, "eager_attention_forward", attend)
        yield


def causal(scores: Tensor) -> Tensor:
    return torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
