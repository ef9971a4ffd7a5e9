"""Beam search and `num_return_sequences` repeat every row of a prompt: find that, and take each row once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .cache import is_new


def prompt_copies(inputs: Mapping[str, Any], prompt_rows: int | None) -> int:
    """How often each row of the prompt stands in a prefill's batch; 1 where it cannot be told, or not be undone.

    Args:
        inputs: keyword arguments of the decoder.
        prompt_rows: rows that `generate` was given; None outside of it.
    """
    embeds, cache = inputs["inputs_embeds"], inputs.get("past_key_values")
    if not prompt_rows or len(embeds) % prompt_rows or len(embeds) == prompt_rows:
        return 1
    copies = len(embeds) // prompt_rows
    groups = embeds.unflatten(0, (prompt_rows, copies))
    masks = inputs.get("attention_mask")
    masks = masks.values() if isinstance(masks, Mapping) else [masks]
    if (
        not (groups == groups[:, :1]).all()
        or not all(mask is None or isinstance(mask, Tensor) for mask in masks)
        # A cache in use holds the keys of all rows.
        or not is_new(cache)
    ):
        return 1
    return copies


def without_copies(inputs: Mapping[str, Any], copies: int) -> Mapping[str, Any]:
    """Keyword arguments of the decoder with every row once."""
    if copies == 1:
        return inputs
    rows = len(inputs["inputs_embeds"])
    if (deepstack := inputs.get("deepstack_visual_embeds")) is not None:  # a vector per image token, row after row
        first = inputs["visual_pos_masks"].nonzero()[:, 0] % copies == 0
        inputs = {**inputs, "deepstack_visual_embeds": [level[first.to(level.device)] for level in deepstack]}

    def once(name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: once(name, part) for key, part in value.items()}
        if not isinstance(value, Tensor):
            return value
        if name == "position_ids" and value.ndim == 3:  # M-RoPE's come before the batch
            return value[:, ::copies] if value.shape[1] == rows else value
        return value[::copies] if value.ndim > 1 and value.shape[0] == rows else value

    return {name: once(name, value) for name, value in inputs.items()}
