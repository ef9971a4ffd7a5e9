"""The one interval of each kind of number: Wilson's of a share of answers, the bootstrap's of all else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from .resampling import LEVEL, RESAMPLES, SEED, Bounds, Interval, percentile_interval, resampled_ratios
from .sums import SampleTable


def ratio_intervals(table: SampleTable, *, seed: int = SEED, resamples: int = RESAMPLES) -> dict[str, Interval]:
    """Metric → its 95 % interval; metrics without one are left out.

    The share of answers that are of a kind, such as an accuracy, has Wilson's interval. It takes questions for
    independent, also those about one image; `compare_tables` does not. Any other ratio, such as F1 or CHAIR-i, has the
    percentile interval of a bootstrap over units.
    """
    drawn = resampled_ratios(table.numerators, table.denominators, table.images, seed=seed, resamples=resamples)
    found: dict[str, Interval | None] = {}
    for column, name in enumerate(table.metrics):
        if name in table.proportions:
            found[name] = wilson(int(table.numerators[:, column].sum()), int(table.denominators[:, column].sum()))
        else:
            found[name] = percentile_interval(drawn[:, column])
    return {name: interval for name, interval in found.items() if interval is not None}


def mean_intervals(values: NDArray[np.float64], images: Sequence[str]) -> list[tuple[float | None, Bounds]]:
    """Mean of each column, (n, m), NaN left out, and its interval by a bootstrap over units."""
    known = np.isfinite(values)
    drawn = resampled_ratios(np.where(known, values, 0.0), known.astype(np.float64), images)
    means = [float(of[fine].mean()) if fine.any() else None for of, fine in zip(values.T, known.T, strict=True)]
    return [(mean, percentile_interval(column) or (None, None)) for mean, column in zip(means, drawn.T, strict=True)]


def wilson(successes: int, n: int) -> Interval | None:
    """Wilson's 95 % interval of a proportion of independent trials; None for no trials.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22, 209.

    Raises:
        ValueError: for counts that are no part of `n`.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"counts do not fit: got {successes} of {n}; expected 0 ≤ successes ≤ n. Check the counts.")
    if n == 0:
        return None
    low, high = binomtest(successes, n).proportion_ci(LEVEL, method="wilson")
    return Interval(float(low), float(high))
