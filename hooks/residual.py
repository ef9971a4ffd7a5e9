"""Edit a decoder block's output, the residual stream, at given tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from .families import ModelFamily
from .installing.stack import HookStack

Edit = Callable[[Float[Tensor, "tokens dim"]], Float[Tensor, "tokens dim"]]


def hidden_of(output: Any) -> Float[Tensor, "batch seq dim"]:
    """The residual stream in a block's output: the output itself, or the first element of a tuple."""
    return output[0] if isinstance(output, tuple) else output


def with_hidden(output: Any, hidden: Float[Tensor, "batch seq dim"]) -> Any:
    """`output` with its residual stream replaced, in the shape that the family returns."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def edit_tokens(output: Any, rows: Int[Tensor, "tokens"], positions: Int[Tensor, "tokens"], edit: Edit) -> Any:
    """Replace the hidden states at (row, position) by `edit` of them; all other tokens stay bit-equal.

    Out of place, so that gradients flow through the edit and nobody's saved tensor changes.
    """
    hidden = hidden_of(output)
    rows, positions = rows.to(hidden.device), positions.to(hidden.device)
    edited = edit(hidden[rows, positions])
    return with_hidden(output, hidden.index_put((rows, positions), edited.to(hidden.dtype)))


def after_blocks(
    stack: HookStack, family: ModelFamily, model: PreTrainedModel, change: Callable[[int, Any], Any]
) -> None:
    """Let `change(block, output)` replace what goes on from every block, unless it returns None.

    Where the decoder itself adds to a block's output, it comes after that, and gets the residual stream alone.
    """

    def after(block: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return change(block, output)

    def before(block: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        changed = change(block, args[0])
        return None if changed is None else ((changed, *args[1:]), kwargs)

    layers, added_to = family.layers(model), family.blocks_added_to(model)
    for block, layer in enumerate(layers):
        if block in added_to:
            following = layers[block + 1] if block + 1 < len(layers) else family.final_norm(model)
            stack.forward_pre_hook(following, functools.partial(before, block))
        else:
            stack.forward_hook(layer, functools.partial(after, block))
