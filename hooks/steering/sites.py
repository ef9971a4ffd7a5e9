"""Where vectors are added: after a block, to what its MLP puts out, or after its self-attention."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from ..families import find_family
from .steps import Edit, StepHooks


def after_block(hooks: StepHooks, model: PreTrainedModel, block: int, edit: Edit) -> None:
    """At each step let `edit` see and replace the residual stream after a decoder block."""
    hooks.after(find_family(model).layers(model)[block], edit)


def after_mlp(hooks: StepHooks, model: PreTrainedModel, block: int, edit: Edit) -> None:
    """At each step let `edit` see and replace what a decoder block's MLP puts out.

    Raises:
        UnsupportedModelError: if the block has no such module.
    """
    family = find_family(model)
    hooks.after(family.mlp(family.layers(model)[block]), edit)


def after_attention(
    hooks: StepHooks,
    model: PreTrainedModel,
    block: int,
    edit: Callable[[Any, Float[Tensor, "rows seq dim"], Float[Tensor, "rows seq dim"]], Tensor],
) -> None:
    """At each step let `edit` see and replace the residual stream between a block's self-attention and its MLP.

    Args:
        hooks: of the steps.
        model: the model.
        block: index of the block.
        edit: gets what is kept for the call, the stream, and what attention has just added to it; returns the stream.

    Raises:
        UnsupportedModelError: if what attention adds is not the output of a module.
    """
    family = find_family(model)
    layer = family.layers(model)[block]
    # What came into the block, of each call in which it is running.
    streams: weakref.WeakKeyDictionary[Any, Tensor] = weakref.WeakKeyDictionary()

    def add(kept: Any, update: Float[Tensor, "rows seq dim"]) -> Float[Tensor, "rows seq dim"]:
        stream = streams.pop(kept) + update
        # What is added instead: to the bit the same, where the stream stays the same.
        return update + (edit(kept, stream, update) - stream).to(update.dtype)

    hooks.before(layer, streams.__setitem__)
    hooks.after(family.attention_update(layer), add)
