"""A mask for a whole forward that also leaves out what plans hide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..prefills.masks import masked
from .layer import AttentionInputs, LayerAttention, is_causal


def mask_without(given: AttentionInputs, layers: Sequence[LayerAttention]) -> Tensor:
    """The kernel's own mask with the hidden keys out, of four axes; every token keeps its own key.

    Args:
        given: what the block's attention function got.
        layers: what its plans made of it.

    Returns:
        (batch, 1 or heads, seq, keys): additive where the kernel adds its mask, else boolean.
    """
    batch, _, seq, _ = given.query.shape
    keys, device = given.key.shape[2], given.query.device
    hidden = torch.zeros(batch, keys, dtype=torch.bool, device=device)
    for layer in layers:
        if layer.hidden is not None:
            hidden[layer.rows] |= layer.hidden
    columns, queries = torch.arange(keys, device=device), torch.arange(seq, device=device)
    out = hidden[:, None, None] & (columns != (queries + given.first)[:, None])
    mask = given.mask
    if isinstance(mask, Tensor) and mask.ndim == 4:
        mask = mask[..., :keys]
        if mask.dtype == torch.bool:
            return mask & ~out
        return mask.expand(batch, -1, -1, -1).masked_fill(out, torch.finfo(mask.dtype).min)
    window: Any = given.options.get("sliding_window")
    nothing = torch.zeros(batch, 1, seq, keys, device=device)
    seen = masked(nothing, mask, queries.expand(batch, -1), given.first, window, is_causal(given))
    return seen.isfinite() & ~out
