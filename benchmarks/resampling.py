"""The bootstrap over images: which images are drawn, and the metrics of each draw.

Every metric but the area under the ROC curve is a ratio of two sums over samples, so that 2,000 resamples are one
matrix product of how often each image is drawn and the sums of each image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
_CELLS = 2_000_000  # entries of a matrix of multiplicities held at once: bounds memory, has no influence on results


class Interval(NamedTuple):
    """A 95 % interval, in the metric's unit."""

    low: float
    high: float


def percentile_interval(statistics: NDArray[np.float64]) -> Interval | None:
    """The central 95 % of resampled values, (resamples,).

    Resamples in which the statistic is undefined (NaN) are left out. None where that is more than half of them, or
    where there is nothing to resample.
    """
    defined = statistics[~np.isnan(statistics)]
    if len(defined) == 0 or 2 * len(defined) < len(statistics):
        return None
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def _clusters(images: Sequence[str]) -> tuple[int, NDArray[np.int64]]:
    """Number of images, and the index of each sample's: by name, so that the order of records makes no difference."""
    names, index = np.unique(np.asarray(images, dtype=np.str_), return_inverse=True)
    return len(names), index.reshape(-1)


def multiplicities(clusters: int, seed: int, resamples: int, width: int) -> Iterator[NDArray[np.float64]]:
    """How often each image is drawn, (part of the resamples, clusters), in parts of at most `_CELLS` / `width` rows."""
    generator = np.random.default_rng(seed)
    rows = max(1, _CELLS // max(width, clusters))
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = generator.integers(0, clusters, size=(count, clusters), dtype=np.int64)
        flat = (drawn + np.arange(count)[:, None] * clusters).ravel()
        yield np.bincount(flat, minlength=count * clusters).reshape(count, clusters).astype(np.float64)


def resampled_ratios(
    numerators: NDArray[np.float64], denominators: NDArray[np.float64], images: Sequence[str], seed: int, resamples: int
) -> NDArray[np.float64]:
    """The metrics of each resample, (n, m) twice → (resamples, m); NaN for 0/0. No rows for fewer than two images."""
    clusters, index = _clusters(images)
    metrics = numerators.shape[1]
    if clusters < 2:
        return np.empty((0, metrics))
    sums = np.zeros((clusters, 2 * metrics))
    np.add.at(sums, index, np.concatenate([numerators, denominators], axis=1))
    totals = np.concatenate([part @ sums for part in multiplicities(clusters, seed, resamples, sums.shape[1])])
    above, below = np.split(totals, 2, axis=1)
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)


def resampled_auc(
    margins: NDArray[np.float64], positives: NDArray[np.bool_], images: Sequence[str], seed: int, resamples: int
) -> NDArray[np.float64]:
    """The area of each resample, (resamples,); NaN without both classes. Empty for fewer than two images."""
    clusters, index = _clusters(images)
    if clusters < 2:
        return np.empty(0)
    parts = multiplicities(clusters, seed, resamples, len(margins))
    return np.concatenate([weighted_auc(margins, positives, part[:, index]) for part in parts])


def weighted_auc(
    margins: NDArray[np.float64], positives: NDArray[np.bool_], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The area for each row of sample weights, (rows, n) → (rows,)."""
    order = np.argsort(margins[~positives], kind="stable")
    negatives = margins[~positives][order]
    below = np.zeros((len(weights), len(negatives) + 1))
    np.cumsum(weights[:, ~positives][:, order], axis=1, out=below[:, 1:])
    wanted = margins[positives]
    # Weight of the negatives below each positive, those equal to it by half: the mean of both ways to count them.
    less = below[:, np.searchsorted(negatives, wanted, side="left")]
    less_or_equal = below[:, np.searchsorted(negatives, wanted, side="right")]
    weight = weights[:, positives]
    pairs = weight.sum(axis=1) * below[:, -1]
    wins = (weight * (less + less_or_equal)).sum(axis=1) / 2
    return np.divide(wins, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)
