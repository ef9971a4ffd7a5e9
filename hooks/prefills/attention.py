"""Read what the text attends to, under any attention kernel, without ever building a tokens × tokens map.

For the length of one diagnostic pass the attention modules of chosen blocks carry a copy of their config that
dispatches to `_collect`, through transformers' own AttentionInterface. It recomputes the attention of a few query rows
from the very queries, keys and mask that the real kernel gets, and hands on to that kernel. In threads that run no
diagnostic it only hands on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .. import compat
from ..errors import SCRError, UnsupportedModelError
from ..installing.forks import tell_of_forks
from ..installing.stack import HookStack
from ..precision import exact
from .masks import masked
from .placed import Placed

_COLLECTOR = "scr_collect"
_QUERY_CHUNK = 256  # bounds the memory of a long prompt: batch × heads × 256 × keys scores at a time

# Arguments of attention functions that would change what the queries see or how much.
_NOT_READ = {
    "s_aux": "attention sinks",
    "position_bias": "a position bias",
    "cu_seq_lens_q": "several sequences packed into one row",
}


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
        by_head: whether each head's own attention is kept as well, a row per head and target.
        maps: filled by the pass: layer → mean over heads of the weighted attention, cut to this forward's tokens.
        head_maps: likewise where `by_head`: layer → the weighted attention of every head, in the model's order.
    """

    queries: Int[Tensor, "batch queries"]
    weights: Float[Tensor, "batch targets queries"]
    first_key: dict[int, int]
    by_head: bool = False
    maps: dict[int, Float[Tensor, "batch targets seq"]] = field(default_factory=dict)
    head_maps: dict[int, Float[Tensor, "batch heads targets seq"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Keep the queries where the blocks are."""
        self._placed = Placed(self.queries, self.weights)

    def add(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        mask: Any,
        scaling: float | None = None,
        softcap: float | None = None,
        sliding_window: int | None = None,
        is_causal: bool | None = None,
        **others: Any,
    ) -> None:
        """Read one layer, from what transformers hands to its attention function.

        Args:
            module: the attention module.
            query: (batch, heads, seq, dim).
            key: (batch, key heads, keys, dim).
            mask: in any of the forms of `masks.masked`.
            scaling: of the scores; by default 1 / √dim.
            softcap: bound of the scores, by tanh.
            sliding_window: for masks that leave it to the kernel.
            is_causal: likewise; by default what the module says.
            others: arguments that do not change the attention; one that would is refused.

        Raises:
            UnsupportedModelError: if the attention cannot be computed from these arguments.
        """
        refuse_what_changes_attention(others)
        layer, seq = module.layer_idx, query.shape[2]
        first, options = self.first_key[layer], {"scaling": scaling, "softcap": softcap}
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        queries, weights = self._placed.on(query.device)
        total = torch.zeros(*weights.shape[:2], key.shape[2], device=query.device, dtype=torch.float32)
        heads = total.new_zeros(len(total), query.shape[1] if self.by_head else 0, *total.shape[1:])
        # Under a user's autocast the averages would be rounded to 8 bits, and patches would tie.
        with exact(query.device):
            for start in range(0, queries.shape[1], _QUERY_CHUNK):
                chunk = queries[:, start : start + _QUERY_CHUNK]
                scores = row_scores(query, key, chunk, options)
                scores = masked(scores, mask, chunk, first, sliding_window, causal)
                weight = weights[:, :, start : start + _QUERY_CHUNK]
                probabilities = torch.softmax(scores, dim=-1)
                # Over heads first: the weights are the same for all of them.
                total += weight @ probabilities.mean(dim=1)
                if self.by_head:
                    heads += weight[:, None] @ probabilities
        if self.by_head:
            self.head_maps[layer] = _of_all_heads(heads[..., first : first + seq], module)
        self.maps[layer] = over_all_heads(total[:, :, first : first + seq], module, query.shape[1])


def refuse_what_changes_attention(others: Mapping[str, Any]) -> None:
    """Raise UnsupportedModelError for arguments of an attention function that we do not compute."""
    for name, meaning in _NOT_READ.items():
        if others.get(name) is not None:
            raise UnsupportedModelError(
                f"attention with {meaning}, which the diagnostic does not compute: got the argument {name}; expected "
                "none. Use a model or an input without them."
            )


def over_all_heads(mean: Tensor, module: Any, heads: int) -> Tensor:
    """The mean over all heads of a module of which this process has computed `heads`."""
    everywhere = getattr(module.config, "num_attention_heads", heads)
    if heads < everywhere:
        # Under tensor parallelism each rank would otherwise choose patches by its own heads, and the ranks diverge.
        mean = (mean * (heads / everywhere)).contiguous()
        torch.distributed.all_reduce(mean, group=compat.head_group(module, heads))
    return mean


def highest_of_heads(highest: Tensor, module: Any, heads: int) -> Tensor:
    """The highest of all heads of a module of which this process has computed `heads`."""
    if heads < getattr(module.config, "num_attention_heads", heads):
        highest = highest.contiguous()
        torch.distributed.all_reduce(highest, torch.distributed.ReduceOp.MAX, compat.head_group(module, heads))
    return highest


def _of_all_heads(own: Float[Tensor, "batch heads targets seq"], module: Any) -> Tensor:
    """The maps of all heads of a module of which this process has computed `own`, in the model's order."""
    heads = own.shape[1]
    everywhere = getattr(module.config, "num_attention_heads", heads)
    if heads == everywhere:
        return own
    parts = [own.new_empty(own.shape) for _ in range(everywhere // heads)]
    group = compat.head_group(module, heads)
    torch.distributed.all_gather(parts, own.contiguous(), group=group)
    return torch.cat(parts, dim=1)


def row_scores(
    query: Tensor, key: Tensor, rows: Int[Tensor, "batch rows"], options: Mapping[str, Any]
) -> Float[Tensor, "batch heads rows keys"]:
    """Attention scores of some query rows, before the mask; float32.

    Args:
        query: (batch, heads, seq, dim).
        key: (batch, key heads, keys, dim).
        rows: token index, in this forward, of the queries.
        options: `scaling` of the scores, by default 1 / √dim; `softcap`, their bound by tanh.
    """
    batch, heads, _, dim = query.shape
    scaling, softcap = options.get("scaling"), options.get("softcap")
    picked = query.gather(2, rows[:, None, :, None].expand(batch, heads, -1, dim))
    # Heads that share a key head are folded into the rows, so that grouped keys need not be repeated.
    folded = picked.reshape(batch, key.shape[1], -1, dim)
    products = (folded @ key.transpose(2, 3)).reshape(batch, heads, rows.shape[1], key.shape[2])
    scores = products.float() * (dim**-0.5 if scaling is None else scaling)
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap


class _Local(threading.local):
    reader: AttentionReader | None = None


_LOCAL = _Local()


def is_reading() -> bool:
    """Whether this thread is in a diagnostic pass, which reads the model as it is."""
    return _LOCAL.reader is not None


def _collect(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, *args: Any, **kwargs: Any
) -> Any:
    """The attention function that transformers calls for the swapped modules."""
    reader = _LOCAL.reader
    if reader is not None and module.layer_idx in reader.first_key:
        reader.add(module, query, key, attention_mask, **kwargs)
        if len(reader.maps) == len(reader.first_key):
            raise StopForward
    return compat.original_attention(module, _COLLECTOR)(query, key, value, attention_mask, *args, **kwargs)


def read_attention(modules: Mapping[int, nn.Module], reader: AttentionReader, run: Callable[[], object]) -> None:
    """Let `reader` see the layers named in `reader.first_key` while `run()` runs a forward, which stops after the last.

    Args:
        modules: block → its self-attention.
        reader: what to read; its `maps` are complete when this returns.
        run: the forward.
    """
    compat.register_attention(_COLLECTOR, _collect)
    swapped = HookStack()
    try:
        _SWAPPED.here(swapped)
        for index in reader.first_key:
            attention: Any = modules[index]
            swapped.attribute(attention, "config", compat.dispatching_config(attention.config, _COLLECTOR))
        _LOCAL.reader = reader
        try:  # noqa: SIM105  `suppress` could be interrupted at its end, and let it out
            run()
        except StopForward:
            pass
    finally:
        _LOCAL.reader = None
        try:
            swapped.close()
            _SWAPPED.nowhere(swapped)
        except BaseException:  # an interrupt, before it was done
            swapped.close()
            _SWAPPED.nowhere(swapped)
            raise
    if missing := sorted(set(reader.first_key) - set(reader.maps)):
        raise SCRError(
            f"attention of some blocks was never computed: got none of blocks {missing}; expected each to call "
            "transformers' attention interface. Choose other attention_layers, or report the model."
        )


class _Swapped:
    """What threads have put on for their diagnostics; in a forked process, which lacks those threads, it comes off."""

    def __init__(self) -> None:
        self._threads: dict[HookStack, int] = {}
        tell_of_forks(self)

    def here(self, stack: HookStack) -> None:
        self._threads[stack] = threading.get_ident()

    def nowhere(self, stack: HookStack) -> None:
        self._threads.pop(stack, None)

    def forked(self) -> None:
        for stack, thread in list(self._threads.items()):
            if thread != threading.get_ident():
                stack.close()
                self.nowhere(stack)


_SWAPPED = _Swapped()
