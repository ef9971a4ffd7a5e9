"""How much an answer trusts one of its own tokens too much, by rows of attention. Pure functions.

A token that summarises what was said draws the attention of all that come after it: a column of the attention that is
strong from its token on. What such a column says is the product of its entries, here as a sum of logarithms.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

SMALL = 1e-7
"""What the products are multiplied by, in OPERA's code; without it penalties are of hundreds of nats."""
OUT_OF_REACH = 999.0
"""How far below a beam's candidates all other tokens are put, in nats; OPERA's code sets their logits to −999."""
BAN = 500.0
"""The most that a penalty takes from a logit: a candidate with less is as good as banned, and stays a candidate."""


def log_shares(
    attention: Float[Tensor, "*rows keys"], columns: list[int], scale: float
) -> Float[Tensor, "*rows answer"]:
    """`log(scale · a)` for the answer's tokens, where a is their share of a row's whole attention.

    Args:
        attention: the highest of all heads, so that rows sum to more than 1.
        columns: the keys of the answer's tokens.
        scale: OPERA's σ.
    """
    shares = attention / attention.sum(dim=-1, keepdim=True)
    return (scale * shares[..., columns]).log()


def with_row(sums: Float[Tensor, "*rows seen"], row: Float[Tensor, "*rows more"]) -> Float[Tensor, "*rows more"]:
    """The columns' sums with one more row of `log_shares`, which has one more column: that of its own token."""
    return torch.cat([sums + row[..., :-1], row[..., -1:]], dim=-1)


def over_trust(
    sums: Float[Tensor, "*rows columns"], half: bool = False
) -> tuple[Float[Tensor, "*rows"], Int[Tensor, "*rows"]]:
    """`max over columns of 1e-7 · ∏ σ·a`, and the column where it is.

    Args:
        sums: of each column, from its own token's row on.
        half: as OPERA's code has it in float16: what is too strong is infinite, what is too weak is 0, and the first
            of equal columns is taken.
    """
    logs = sums + math.log(SMALL)
    if half:
        products = logs.exp().half().float()
        columns = products.argmax(dim=-1)
        return products.gather(-1, columns[..., None])[..., 0], columns
    highest, columns = logs.max(dim=-1)
    return highest.exp(), columns


def most_common(values: Int[Tensor, "*rows count"]) -> Int[Tensor, "*rows"]:
    """Of the values that are there most often the smallest."""
    times = (values[..., None] == values[..., None, :]).sum(dim=-1)
    return torch.where(times == times.amax(dim=-1, keepdim=True), values, values.max()).amin(dim=-1)


def with_penalties(
    logits: Float[Tensor, "beams vocab"],
    candidates: Int[Tensor, "beams count"],
    penalties: Float[Tensor, "beams count"],
) -> Float[Tensor, "beams vocab"]:
    """Logits with the candidates' penalties taken off, and everything else out of reach, in the order that it had."""
    return (logits - OUT_OF_REACH).scatter(-1, candidates, logits.gather(-1, candidates) - penalties)
