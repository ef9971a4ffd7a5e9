"""Bring plans into the attention of a model: those of the `generate` that runs, and those of a forward of our own.

For as long as anybody has tapped them, the attention modules carry a copy of their config that dispatches to `_tapped`
by transformers' AttentionInterface. A forward without plans goes straight on to the kernel.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from .. import compat
from ..errors import UnsupportedGenerationError
from ..families import find_family
from ..generation import current_calls, is_beside
from ..installing.running import base_of, when_idle
from ..installing.stack import HookStack
from ..prefills.attention import is_reading
from ..prefills.cache import first_key_column, past_length
from .layer import AttentionInputs, LayerAttention
from .masking import mask_without

_TAP = "scr_tap"


class AttentionPlan(Protocol):
    """Somebody's part in the attention of some rows; a class that derives from it says only what it does."""

    def embed(self, embeds: Float[Tensor, "rows seq dim"], past: int) -> Float[Tensor, "rows seq dim"]:
        """See what goes into the first block, after `past` tokens; return it, or others in its place, out of place."""
        return embeds

    def attend(self, attention: LayerAttention) -> None:
        """Take part in one block's attention, before it is computed; called in every forward, block after block.

        A block without attention goes by unasked.
        """
        return


class Attending(NamedTuple):
    """A plan and its rows of a batch; `pad` columns were put to their left."""

    rows: slice
    plan: AttentionPlan
    pad: int = 0


@dataclass
class _Forward:
    """One forward of a tapped decoder, on one thread; `first` is for each block the key column of its first token."""

    attending: tuple[Attending, ...]
    past: int
    first: dict[int, int]
    embedded: bool = False


class _Local(threading.local):
    own: tuple[tuple[nn.Module, tuple[Attending, ...]], ...] = ()
    forward: _Forward | None = None
    inside: bool = False
    blocks: int = 0


_LOCAL = _Local()


def tap_attention(model: PreTrainedModel, stack: HookStack) -> None:
    """Let plans take part in the attention of `model` until `stack` is closed and no call needs it.

    Several may tap a model; they may leave in any order.
    """
    compat.check_transformers()
    compat.register_attention(_TAP, _tapped)
    family, hooks = find_family(model), HookStack()
    modules, decoder, base = family.attention_modules(model), family.decoder(model), base_of(model)
    stack.callback(when_idle, model, hooks.close)

    # Plans are Python: a compiled model runs them between its graphs.
    @torch.compiler.disable
    def before(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        _begin(base, modules, kwargs)

    @torch.compiler.disable
    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        _end()

    @torch.compiler.disable
    def embedded(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        forward = None if is_reading() else _LOCAL.forward
        if forward is None or forward.embedded:  # by another tap of the same model
            return None
        forward.embedded = True
        hidden = args[0] if args else kwargs["hidden_states"]
        changed = _embed(forward, hidden)
        if changed is hidden:
            return None
        return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})

    hooks.forward_pre_hook(decoder, before)
    hooks.forward_hook(decoder, after, always_call=True)
    hooks.forward_pre_hook(family.layers(model)[0], embedded)
    for attention in modules.values():
        hooks.attribute(attention, "config", compat.dispatching_config(cast(Any, attention).config, _TAP))


@contextlib.contextmanager
def attending(model: nn.Module, plans: Sequence[Attending]) -> Iterator[None]:
    """Inside the `with`, forwards of a tapped model on this thread have these plans, for rows of their batch.

    Raises:
        UnsupportedGenerationError: at the end, if a forward's blocks went by unseen.
    """
    if not plans:
        yield
        return
    before, seen = _LOCAL.own, _LOCAL.blocks
    _LOCAL.own = ((base_of(model), tuple(plans)), *before)
    try:
        yield
    finally:
        _LOCAL.own = before
    require_seen(seen)


def blocks_seen() -> int:
    """How many blocks of tapped decoders have had plans on this thread so far; see `require_seen`."""
    return _LOCAL.blocks


def require_seen(before: int) -> None:
    """Raise UnsupportedGenerationError unless blocks were seen since `blocks_seen` returned `before`."""
    if _LOCAL.blocks == before:
        raise UnsupportedGenerationError(
            "attention went by unseen: got a forward whose blocks call no attention function; expected each to go "
            "through transformers' attention interface. Use the model without torch.compile."
        )


def _begin(base: nn.Module, blocks: Iterable[int], inputs: Mapping[str, Any]) -> None:
    if is_reading():
        return
    cache, embeds = inputs.get("past_key_values"), inputs.get("inputs_embeds")
    tokens = embeds if embeds is not None else inputs["input_ids"]
    plans = [*_plans_of_the_call(base, len(tokens))]
    for owner, own in _LOCAL.own:
        if owner is base:
            plans += own
    _LOCAL.forward = None
    if plans:
        first = {layer: first_key_column(cache, layer, tokens.shape[1]) for layer in blocks}
        _LOCAL.forward = _Forward(tuple(plans), past_length(cache), first)


def _plans_of_the_call(base: nn.Module, batch: int) -> Iterator[Attending]:
    if not is_beside():
        for call in current_calls():
            if base_of(call.model) is base:
                call.rows = batch if call.rows is None else call.rows
                yield from (Attending(slice(0, call.rows), plan) for plan in call.attending)
                return


def _end() -> None:
    if not is_reading():
        _LOCAL.forward = None


def _embed(forward: _Forward, hidden: Tensor) -> Tensor:
    for rows, plan, _ in forward.attending:
        own = hidden[rows]
        changed = plan.embed(own, forward.past)
        if changed is not own:
            start, end, _ = rows.indices(len(hidden))
            hidden = torch.cat([hidden[:start], changed.to(hidden.dtype), hidden[end:]])
    return hidden


@torch.compiler.disable
def _tapped(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, *args: Any, **kwargs: Any
) -> Any:
    """The attention function that transformers calls for the swapped modules."""
    kernel = compat.original_attention(module, _TAP)
    forward = None if is_reading() or _LOCAL.inside else _LOCAL.forward
    if forward is None:
        return kernel(query, key, value, attention_mask, *args, **kwargs)
    _LOCAL.inside = True  # for another tap below this one
    try:
        _LOCAL.blocks += 1
        first = forward.first[module.layer_idx]
        given = AttentionInputs(module, query, key, value, attention_mask, kwargs, forward.past, first)
        layers: dict[tuple[int, int, int], LayerAttention] = {}
        for rows, plan, pad in forward.attending:
            start, end, _ = rows.indices(len(query))
            plan.attend(layers.setdefault((start, end, pad), LayerAttention(given, rows, pad)))
        if any(layer.hidden is not None for layer in layers.values()):
            kernel = compat.masked_attention(module, _TAP, kwargs.get("softcap"))
            attention_mask = mask_without(given, list(layers.values()))
        output, weights = kernel(query, key, value, attention_mask, *args, **kwargs)
        for (start, end, _), layer in layers.items():
            own = output[start:end]
            changed = layer.after_kernel(own)
            if changed is not own:
                output = torch.cat([output[:start], changed, output[end:]])
    finally:
        _LOCAL.inside = False
    return output, weights
