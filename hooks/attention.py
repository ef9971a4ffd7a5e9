"""Read what the text attends to, under any attention kernel, without ever building a tokens × tokens map.

For the length of one diagnostic pass the attention modules of chosen blocks carry a copy of their config that
dispatches to `_collect`, through transformers' own AttentionInterface. It recomputes the attention of a few query rows
from the very queries, keys and mask that the real kernel gets, and hands on to that kernel. In threads that run no
diagnostic it only hands on.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from . import compat
from .errors import SCRError, UnsupportedModelError
from .stack import HookStack

_QUERY_CHUNK = 256  # bounds the memory of a long prompt: batch × heads × 256 × keys scores at a time


class StopForward(BaseException):
    """Ends a diagnostic pass at its last attention layer; not an Exception, so that nobody's `except` swallows it."""


@dataclass
class AttentionReader:
    """Averages the attention of weighted query rows, layer by layer.

    Attributes:
        queries: token index, in this forward, of the query rows; short rows are filled up with any index.
        weights: how much each query counts for each of `targets` averages; 0 where filled up. A row sums to 1 over the
            queries of a target, or to 0 for a target that does not exist.
        first_key: for each layer to read, the key column of this forward's first token.
        maps: filled by the pass: layer → mean over heads of the weighted attention, cut to this forward's tokens.
    """

    queries: Int[Tensor, "batch queries"]
    weights: Float[Tensor, "batch targets queries"]
    first_key: dict[int, int]
    maps: dict[int, Float[Tensor, "batch targets seq"]] = field(default_factory=dict)

    def add(self, module: Any, query: Tensor, key: Tensor, mask: Any, scaling: float | None, softcap: Any) -> None:
        """Read one layer: `query` (batch, heads, seq, dim) and `key` (batch, key heads, keys, dim)."""
        layer, seq = module.layer_idx, query.shape[2]
        first = self.first_key[layer]
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        queries, weights = self.queries.to(query.device), self.weights.to(query.device)
        total = torch.zeros(*weights.shape[:2], key.shape[2], device=query.device, dtype=torch.float32)
        # Under a user's autocast the averages would be rounded to 8 bits, and patches would tie.
        with torch.autocast(query.device.type, enabled=False):
            for start in range(0, queries.shape[1], _QUERY_CHUNK):
                chunk = queries[:, start : start + _QUERY_CHUNK]
                scores = _scores(query, key, chunk).float() * scaling
                if softcap is not None:
                    scores = torch.tanh(scores / softcap) * softcap
                scores = _masked(scores, mask, chunk, first)
                # Over heads first: the weights are the same for all of them.
                probabilities = torch.softmax(scores, dim=-1).mean(dim=1)
                total += weights[:, :, start : start + _QUERY_CHUNK] @ probabilities
        self.maps[layer] = total[:, :, first : first + seq]


def _scores(query: Tensor, key: Tensor, rows: Int[Tensor, "batch rows"]) -> Float[Tensor, "batch heads rows keys"]:
    batch, heads, _, dim = query.shape
    picked = query.gather(2, rows[:, None, :, None].expand(batch, heads, -1, dim))
    # Heads that share a key head are folded into the rows, so that grouped keys need not be repeated.
    folded = picked.reshape(batch, key.shape[1], -1, dim)
    return (folded @ key.transpose(2, 3)).reshape(batch, heads, rows.shape[1], key.shape[2])


def _masked(scores: Tensor, mask: Any, rows: Int[Tensor, "batch rows"], first: int) -> Tensor:
    """Scores with the rows of `mask` applied: 4-D boolean or additive as transformers builds it, or None for causal."""
    batch, _, count, keys = scores.shape
    if mask is None:
        visible: Bool[Tensor, "..."] = torch.arange(keys, device=scores.device) <= (rows[:, :, None] + first)
        return scores.masked_fill(~visible[:, None], -torch.inf)
    if not isinstance(mask, Tensor) or mask.ndim != 4:
        raise UnsupportedModelError(
            f"attention mask that the diagnostic cannot read: got {type(mask).__name__}"
            f"{tuple(mask.shape) if isinstance(mask, Tensor) else ''}; expected a 4-D tensor or None. "
            "Load the model with attn_implementation='sdpa' or 'eager'."
        )
    mask = mask.expand(batch, -1, -1, -1)[..., :keys]
    picked = mask.gather(2, rows[:, None, :, None].expand(batch, mask.shape[1], count, keys))
    return scores.masked_fill(~picked, -torch.inf) if picked.dtype == torch.bool else scores + picked.float()


class _Local(threading.local):
    reader: AttentionReader | None = None


_LOCAL = _Local()


def _collect(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, *args: Any, **kwargs: Any
) -> Any:
    """The attention function that transformers calls for the swapped modules."""
    reader = _LOCAL.reader
    if reader is not None and module.layer_idx in reader.first_key:
        reader.add(module, query, key, attention_mask, kwargs.get("scaling"), kwargs.get("softcap"))
        if len(reader.maps) == len(reader.first_key):
            raise StopForward
    return compat.original_attention(module)(module, query, key, value, attention_mask, *args, **kwargs)


@contextlib.contextmanager
def reading(layers: nn.ModuleList, reader: AttentionReader) -> Iterator[None]:
    """Let `reader` see the layers named in `reader.first_key` inside the `with`; the forward stops after the last.

    Args:
        layers: the decoder blocks.
        reader: what to read; its `maps` are complete when the `with` ends without an error.
    """
    compat.register_collector(_collect)
    with HookStack() as stack:
        for index in reader.first_key:
            attention: Any = layers[index].self_attn
            stack.attribute(attention, "config", compat.collecting_config(attention.config))
        _LOCAL.reader = reader
        stack.callback(setattr, _LOCAL, "reader", None)
        with contextlib.suppress(StopForward):
            yield
    if missing := sorted(set(reader.first_key) - set(reader.maps)):
        raise SCRError(
            f"attention of some blocks was never computed: got none of blocks {missing}; expected each to call "
            "transformers' attention interface. Choose other attention_layers, or report the model."
        )
