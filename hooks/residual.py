"""Edit a decoder block's output, the residual stream, at given tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

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
