"""The bootstrap: which units are drawn, how often, and what the middle of the draws is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
SEED = 20_140_501
RESAMPLES = 2_000
_CELLS = 2_000_000  # entries of a matrix of draws held at once: bounds memory, has no influence on results

Seed = int | Sequence[int]


class Interval(NamedTuple):
    """A 95 % interval, in the metric's unit."""

    low: float
    high: float


Bounds = Interval | tuple[None, None]
"""An interval for a table; None twice where there is none."""


def percentile_interval(statistics: NDArray[np.float64]) -> Interval | None:
    """The central 95 % of resampled values, (resamples,).

    Resamples in which the statistic is undefined (not finite) are left out. None where that is more than half of them,
    or where there is nothing to resample.
    """
    defined = statistics[np.isfinite(statistics)]
    if len(defined) == 0 or 2 * len(defined) < len(statistics):
        return None
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def unit_index(images: Sequence[str]) -> tuple[int, NDArray[np.int64]]:
    """Number of units, and the index of each sample's, (n,): by name, so that the order of records makes no difference.

    A sample whose image has no name is a unit of its own.
    """
    named = [f"/{name}" if name else f"sample {row}" for row, name in enumerate(images)]
    names, index = np.unique(np.asarray(named, dtype=np.str_), return_inverse=True)
    return len(names), index.reshape(-1).astype(np.int64)


def bootstrap_weights(
    images: Sequence[str], *, seed: Seed = SEED, resamples: int = RESAMPLES
) -> Iterator[NDArray[np.float64]]:
    """How often each sample's unit is drawn, in parts (resamples of the part, n). No part for fewer than two units."""
    units, index = unit_index(images)
    return (part[:, index] for part in _draws(units, seed, resamples, len(index)))


def resampled_sums(
    values: NDArray[np.float64], images: Sequence[str], *, seed: Seed = SEED, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """The columns' sums over each resample, (n, m) → (resamples, m). No rows for fewer than two units."""
    units, index = unit_index(images)
    sums = np.zeros((units, values.shape[1]))
    np.add.at(sums, index, values)
    # Sums of units are all that a sum over a resample needs: 2,000 of them are one matrix product.
    parts = [part @ sums for part in _draws(units, seed, resamples, values.shape[1])]
    return np.concatenate(parts) if parts else np.empty((0, values.shape[1]))


def resampled_ratios(
    numerators: NDArray[np.float64],
    denominators: NDArray[np.float64],
    images: Sequence[str],
    *,
    seed: Seed = SEED,
    resamples: int = RESAMPLES,
) -> NDArray[np.float64]:
    """Sums of one over sums of the other, (n, m) twice → (resamples, m); NaN for 0/0. As `resampled_sums`."""
    totals = resampled_sums(np.concatenate([numerators, denominators], axis=1), images, seed=seed, resamples=resamples)
    above, below = np.split(totals, 2, axis=1)
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)


def in_parts(total: int, width: int) -> Iterator[int]:
    """Numbers of rows that make up `total`, each so many of `width` entries as are held at once."""
    rows = max(1, _CELLS // max(1, width))
    for start in range(0, total, rows):
        yield min(rows, total - start)


def _draws(units: int, seed: Seed, resamples: int, width: int) -> Iterator[NDArray[np.float64]]:
    """How often each unit is drawn, in parts (resamples of the part, units)."""
    if units < 2:
        return
    generator = np.random.default_rng(seed)
    for count in in_parts(resamples, max(width, units)):
        drawn = generator.integers(0, units, size=(count, units), dtype=np.int64)
        flat = (drawn + np.arange(count)[:, None] * units).ravel()
        yield np.bincount(flat, minlength=count * units).reshape(count, units).astype(np.float64)
