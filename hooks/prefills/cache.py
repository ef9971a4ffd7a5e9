"""A throw-away fork of a KV cache, for passes that must leave no trace."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import LinearAttentionCacheLayerMixin


class _ThrowAwayUpdates:
    """Mixed in before a cache class: `update` returns what the real one would return, and keeps nothing."""

    layers: list[Any]
    layer_class_to_replicate: type | None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if layer_idx < len(self.layers):
            layer = copy.copy(self.layers[layer_idx])
            # Static layers write into their tensors, the counter of seen tokens included; dynamic ones rebind.
            for name, value in vars(layer).items():
                if layer.is_compileable and isinstance(value, Tensor):
                    setattr(layer, name, value.clone())
            layer.prefetch()
        else:  # a dynamic cache that appends its layers as they come
            assert self.layer_class_to_replicate is not None
            layer = self.layer_class_to_replicate()
        return layer.update(key_states, value_states, *args, **kwargs)


@functools.cache
def _forked_class(cache_class: type[Cache]) -> type[Cache]:
    return type(f"Forked{cache_class.__name__}", (_ThrowAwayUpdates, cache_class), {})


def carries_state(layer: Any) -> bool:
    """Whether a layer of a cache holds a state of linear attention, which has no columns and cannot be cut back."""
    return isinstance(layer, LinearAttentionCacheLayerMixin)


def is_new(cache: Cache | None) -> bool:
    """Whether nothing was written to it."""
    return not any(
        any(layer.is_conv_states_initialized.values())
        if carries_state(layer)
        else getattr(layer, "is_initialized", True)
        for layer in getattr(cache, "layers", ())
    )


def _with_own_states(layer: Any) -> Any:
    """A copy of what carries a state on, written into in place, which the original does not see."""
    own = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, dict):  # state by state: few, and no longer for a longer past
            states = {key: part.clone() if isinstance(part, Tensor) else part for key, part in value.items()}
            setattr(own, name, states)
    return own


@torch.no_grad()
def fork(cache: Cache | None) -> Cache | None:
    """A view of `cache` that a forward pass can use and that leaves the original as it is.

    Reading (lengths, mask sizes, past keys) goes to the original; each `update` works on a copy of one layer, which is
    dropped as soon as the layer has its keys and values: the pass holds one layer's copy at a time. Layers that carry a
    state on are copied at once.

    Args:
        cache: any transformers cache; `None` stays `None`.
    """
    if cache is None:
        return None
    forked: Any = copy.copy(cache)
    forked.__class__ = _forked_class(forked.__class__)
    forked.layers = [_with_own_states(layer) if carries_state(layer) else layer for layer in cache.layers]
    return forked


def past_length(cache: Cache | None) -> int:
    """Number of tokens that the cache has seen (static caches count in a tensor)."""
    return 0 if cache is None else int(cache.get_seq_length())


def first_key_column(cache: Cache | None, layer: int, new_tokens: int) -> int:
    """Column of the first *new* token among a layer's keys.

    Not "the last N": static caches pad their keys to the maximal length, and sliding ones drop the oldest.
    """
    if cache is None or layer >= len(cache.layers):
        return past_length(cache)
    return past_length(cache) - int(cache.get_mask_sizes(new_tokens, layer)[1])


def mask_layer(cache: Cache | None) -> int:
    """The layer whose keys a model's mask is made for: its "full_attention" mask, or the only one if there is one."""
    layers = [] if cache is None else zip(cache.is_sliding, cache.is_linear, strict=True)
    return next((index for index, (slides, is_linear) in enumerate(layers) if not slides and not is_linear), 0)


def append_rows(cache: Cache, others: Sequence[Cache], pads: Sequence[int]) -> None:
    """Let `cache` hold the rows of `others` below its own.

    Args:
        cache: a dynamic one.
        others: of the same model; their tensors are not used any more.
        pads: for `cache` and each of `others`, how many columns come to its left: masked ones, so that all have seen
            equally many tokens.
    """
    for index in range(len(cache.layers)):
        parts = [cast(Any, one.layers[index]) for one in (cache, *others)]
        own = parts[0]
        if carries_state(own):
            _append_states(parts)
        if not hasattr(own, "keys"):
            continue
        # A sliding layer holds no more than its window.
        longest = max(part.keys.shape[2] for part in parts)
        for name in ("keys", "values"):
            padded = [_padded_to(longest, getattr(part, name).to(own.keys)) for part in parts]
            setattr(own, name, torch.cat(padded))
            for part in parts[1:]:
                setattr(part, name, None)
        if hasattr(own, "cumulative_length"):
            own.cumulative_length += pads[0]


def _append_states(parts: Sequence[Any]) -> None:
    """As `append_rows`, for states; padding has left no trace in them."""
    for name in ("conv_states", "recurrent_states"):
        states = [getattr(part, name) for part in parts]
        for key, own in states[0].items():
            if own is not None:
                states[0][key] = torch.cat([one[key].to(own) for one in states])
                for other in states[1:]:
                    other[key] = None


def _padded_to(length: int, values: Tensor) -> Tensor:
    return torch.nn.functional.pad(values, (0, 0, length - values.shape[2], 0))
