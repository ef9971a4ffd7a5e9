"""Bins of entropy: quantiles, and the nats of the paper where an attention map is large enough to reach them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PAPER_EDGES = (3.5, 4.5)
"""Nats; the paper reports gains below the first and above the second (SCR, arXiv 2602.22469)."""


class Bin(NamedTuple):
    """A range of a covariate.

    Attributes:
        label: for tables.
        low: its lower edge, -inf for none.
        high: its upper edge.
        rows: indices of the samples in it, in their order.
    """

    label: str
    low: float
    high: float
    rows: NDArray[np.int64]


def quantile_bins(values: NDArray[np.float64], count: int) -> list[Bin]:
    """Bins of about equal size, (n,) finite values; fewer where values are tied, one where all are the same.

    A value on an edge belongs to the lower bin.
    """
    edges = np.unique(np.quantile(values, np.arange(1, count) / count)) if len(values) else np.empty(0)
    edges = edges[edges < values.max()] if len(values) else edges
    return _bins(values, [float(edge) for edge in edges], [], "right")


def paper_bins(values: NDArray[np.float64], largest: float) -> list[Bin] | str:
    """The paper's bins of entropy in nats, (n,): < 3.5, 3.5–4.5, > 4.5; or why they cannot be used.

    Args:
        values: entropies in nats.
        largest: log N of the grids, the most that an entropy can be.
    """
    if largest <= PAPER_EDGES[-1]:
        return (
            "the paper's bins (<3.5, 3.5–4.5, >4.5 nats) need more than "
            f"{math.ceil(math.exp(PAPER_EDGES[-1])) - 1} patches: "
            f"these grids have {round(math.exp(largest))}, whose largest entropy is log N = {largest:.2f}; "
            "quantiles are shown instead"
        )
    return _bins(values, list(PAPER_EDGES), ["<3.5 nats", "3.5–4.5 nats", ">4.5 nats"], "paper")


def _bins(values: NDArray[np.float64], edges: list[float], labels: list[str], side: str) -> list[Bin]:
    if side == "paper":  # both edges belong to the middle
        number = (values >= edges[0]).astype(np.int64) + (values > edges[1])
    else:
        number = np.searchsorted(np.asarray(edges), values, side="left")
    bounds = [-math.inf, *edges, math.inf]
    bins = []
    for index in range(len(edges) + 1):
        rows = np.flatnonzero(number == index)
        if not len(rows):
            continue
        low, high = float(values[rows].min()), float(values[rows].max())
        label = labels[index] if labels else f"{index + 1}: {low:.4g}" + (f" to {high:.4g}" if high > low else "")
        bins.append(Bin(label, bounds[index], bounds[index + 1], rows))
    return bins
