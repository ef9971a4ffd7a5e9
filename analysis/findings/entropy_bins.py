"""Hallucination rate by bins of entropy: quantiles, and the paper's nats where the grids are large enough."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .._benchmarks import RESAMPLES, bootstrap_weights, percentile_interval, wilson
from ..drawing.tables import Cell, Table
from ..reading.rows import AbsentRows
from ..reading.trace import MEASURES
from ..statistics.bins import Bin, paper_bins, quantile_bins

BINS = 10


def entropy_bins(rows: AbsentRows, resamples: int = RESAMPLES) -> tuple[Table, list[str]]:
    """A row per model, cut ("quantiles", "paper") and bin; and sentences, the correlation over bins among them.

    Args:
        rows: questions about absent objects.
        resamples: of the bootstrap of the correlation over bins.
    """
    lines: list[tuple[Cell, ...]] = []
    notes: list[str] = []
    for model, largest in rows.largest.items():
        index = rows.of_model(model)
        values, images = rows.values[index], rows.images[index]
        outcomes = rows.hallucinated[index].astype(np.float64)
        cuts: list[tuple[str, list[Bin]]] = [("quantiles", quantile_bins(values, BINS))]
        if len(cuts[0][1]) < 3:
            notes.append(f"{model}: {len(cuts[0][1])} different bins of {MEASURES[rows.measure]}, too few for a trend.")
        else:
            notes.append(f"{model}: {_trend(cuts[0][1], values, outcomes, list(images), resamples)}")
        if rows.measure == "entropy":
            if largest is None:
                notes.append(f"{model}: the paper's bins are left out, as no trace tells the size of its grids.")
            else:
                paper = paper_bins(values, largest)
                if isinstance(paper, str):
                    notes.append(f"{model}: {paper}.")
                else:
                    cuts.append(("paper", paper))
        for cut, bins in cuts:
            for one in bins:
                said = outcomes[one.rows]
                rate, bounds = float(said.mean()), wilson(int(said.sum()), len(said)) or (None, None)
                count = len(one.rows), len(set(images[one.rows]))
                lines.append((model, cut, one.label, float(values[one.rows].mean()), rate, *bounds, *count))
    table = Table(
        name=f"{rows.measure}_bins",
        title=f"Hallucination rate by {MEASURES[rows.measure]}",
        columns=("model", "cut", "bin", "mean", "rate", "rate_low", "rate_high", "questions", "images"),
        rows=tuple(lines),
        percent=frozenset({"rate", "rate_low", "rate_high"}),
        notes=("Hallucination rate: share of absent objects that get yes. Intervals: 95 %, Wilson's.",),
    )
    return table, notes


def _trend(
    bins: Sequence[Bin], values: NDArray[np.float64], outcomes: NDArray[np.float64], images: list[str], resamples: int
) -> str:
    """Pearson's r over bins: mean of the measure against hallucination rate, edges held while images are drawn."""
    member = np.zeros((len(values), len(bins)))
    for column, one in enumerate(bins):
        member[one.rows, column] = 1.0

    def over_bins(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        mass = weights @ member
        means, rates = (
            np.divide(weights @ (member * of[:, None]), mass, out=np.full_like(mass, np.nan), where=mass > 0)
            for of in (values - values.mean(), outcomes)
        )
        x, y = (of - of.mean(axis=1, keepdims=True) for of in (means, rates))
        scale = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
        flat = ~(scale > 1e-12)
        return np.divide((x * y).sum(axis=1), scale, out=np.full(len(x), np.nan), where=~flat)

    r = float(over_bins(np.ones((1, len(values))))[0])
    if not np.isfinite(r):
        return f"the hallucination rate is the same in all {len(bins)} bins: no correlation over bins is defined."
    drawn = [over_bins(part) for part in bootstrap_weights(images, resamples=resamples)]
    interval = percentile_interval(np.concatenate([np.empty(0), *drawn]))
    shown = "no interval" if interval is None else f"{interval.low:+.2f} to {interval.high:+.2f}"
    return (
        f"over {len(bins)} bins r = {r:+.2f} ({shown}). Averages within bins correlate more strongly than samples do; "
        "it says how regular the trend is, not how strong."
    )
