"""Draws of images: for bootstrap intervals, permutations and sign flips. Questions about one image stay together.

Samples without an image (its name is empty) are independent, each a cluster of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ._benchmarks import RESAMPLES, SEED, SampleTable

LEVEL = 0.95
_CELLS = 2_000_000  # entries of a matrix of draws held at once: bounds memory, has no influence on results

Bounds = tuple[float | None, float | None]
"""An interval for a table; None twice where there is none."""


def image_index(images: Sequence[str]) -> tuple[int, NDArray[np.int64]]:
    """Number of images, and the index of each sample's, (n,)."""
    named = [f"/{name}" if name else f"sample {row}" for row, name in enumerate(images)]
    names, index = np.unique(np.asarray(named, dtype=np.str_), return_inverse=True)
    return len(names), index.reshape(-1).astype(np.int64)


def bootstrap_weights(
    images: Sequence[str], *, seed: int = SEED, resamples: int = RESAMPLES
) -> Iterator[NDArray[np.float64]]:
    """How often each sample's image is drawn, in parts (resamples of the part, n). None for fewer than two images."""
    clusters, index = image_index(images)
    if clusters < 2:
        return
    generator = np.random.default_rng(seed)
    for count in _parts(resamples, len(index)):
        drawn = generator.integers(0, clusters, size=(count, clusters))
        flat = (drawn + np.arange(count)[:, None] * clusters).ravel()
        times = np.bincount(flat, minlength=count * clusters).reshape(count, clusters)
        yield times[:, index].astype(np.float64)


def interval(statistics: NDArray[np.float64]) -> Bounds:
    """The central 95 % of resampled values, (resamples,); (None, None) where more than half of them are undefined."""
    defined = statistics[np.isfinite(statistics)]
    if len(defined) == 0 or 2 * len(defined) < len(statistics):
        return (None, None)
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return (float(low), float(high))


def image_permutations(
    images: Sequence[str], strata: Sequence[str], *, seed: int = SEED, permutations: int = RESAMPLES
) -> Iterator[NDArray[np.int64]]:
    """Rows exchanged between images as whole blocks, in parts (permutations of the part, n).

    Images are exchangeable that have the same number of samples in each stratum: a block then lands on rows of the same
    strata. Nothing where no two images are.

    Args:
        images: name of the image of each sample, (n,).
        strata: what a sample may not leave, its model and task, (n,).
        seed: of the draws.
        permutations: how many.
    """
    _, index = image_index(images)
    order = np.lexsort((np.arange(len(index)), np.asarray(strata, dtype=np.str_), index))
    groups: dict[tuple[str, ...], list[NDArray[np.int64]]] = {}
    for block in np.split(order, np.flatnonzero(np.diff(index[order])) + 1):
        groups.setdefault(tuple(strata[row] for row in block), []).append(block)
    blocks = [np.stack(group) for group in groups.values() if len(group) > 1]
    if not blocks:
        return
    generator = np.random.default_rng(seed)
    for count in _parts(permutations, len(index)):
        part = np.tile(np.arange(len(index), dtype=np.int64), (count, 1))
        for group in blocks:
            drawn = generator.permuted(np.tile(np.arange(len(group)), (count, 1)), axis=1)
            part[:, group.ravel()] = group[drawn].reshape(count, -1)
        yield part


def sign_flip_p(
    before: tuple[NDArray[np.float64], NDArray[np.float64]],
    after: tuple[NDArray[np.float64], NDArray[np.float64]],
    images: Sequence[str],
    *,
    seed: int = SEED,
    flips: int = 9_999,
) -> float | None:
    """Two-sided p that a rate is the same in two runs on the same samples: swaps the two, image by image, at random.

    Unlike McNemar's test it does not take questions about one image for independent. (1 + as extreme) / (1 + flips), so
    that it is never 0.

    Args:
        before: what each sample adds above and below the line of the rate, (n,) twice.
        after: the same of the other run.
        images: name of the image of each sample, (n,).
        seed: of the swaps.
        flips: how many.

    Returns:
        p; None where a rate is undefined.
    """
    clusters, index = image_index(images)
    one, other = (np.zeros((clusters, 2)) for _ in range(2))
    for sums, columns in ((one, before), (other, after)):
        np.add.at(sums, index, np.stack(columns, axis=1))
    total, change = one.sum(axis=0), other - one
    if not total[1] or not other[:, 1].sum():
        return None
    both = total + other.sum(axis=0)
    observed = abs(other[:, 0].sum() / other[:, 1].sum() - total[0] / total[1])
    generator, extreme, defined = np.random.default_rng(seed), 0, 0
    for count in _parts(flips, clusters):
        first = total + generator.integers(0, 2, size=(count, clusters)).astype(np.float64) @ change
        second = both - first
        fine = (first[:, 1] > 0) & (second[:, 1] > 0)
        found = np.abs(second[fine, 0] / second[fine, 1] - first[fine, 0] / first[fine, 1])
        extreme += int((found >= observed - 1e-12).sum())
        defined += int(fine.sum())
    return (1 + extreme) / (1 + defined)


def ratio_intervals(table: SampleTable) -> dict[str, Bounds]:
    """Metric → its interval by a bootstrap over images, rates too: questions about one image are not independent."""
    drawn = _resampled_ratios(table.numerators, table.denominators, table.images)
    return {name: interval(column) for name, column in zip(table.metrics, drawn.T, strict=True)}


def mean_intervals(values: NDArray[np.float64], images: Sequence[str]) -> list[tuple[float | None, Bounds]]:
    """Mean of each column, (n, m), NaN left out, and its bootstrap interval over images."""
    known = np.isfinite(values)
    drawn = _resampled_ratios(np.where(known, values, 0.0), known.astype(np.float64), images)
    means = [float(of[fine].mean()) if fine.any() else None for of, fine in zip(values.T, known.T, strict=True)]
    return [(mean, interval(column)) for mean, column in zip(means, drawn.T, strict=True)]


def _resampled_ratios(
    above: NDArray[np.float64], below: NDArray[np.float64], images: Sequence[str]
) -> NDArray[np.float64]:
    """Sums of one over sums of the other, (n, m) twice → (resamples, m); no rows for fewer than two images."""
    clusters, index = image_index(images)
    sums = np.zeros((clusters, 2 * above.shape[1]))
    np.add.at(sums, index, np.concatenate([above, below], axis=1))
    # An image's own row stands for its samples: the same draws as of all samples, at a fraction of the work.
    parts = [part @ sums for part in bootstrap_weights([f"{row:09d}" for row in range(clusters)])]
    if not parts:
        return np.empty((0, above.shape[1]))
    one, other = np.split(np.concatenate(parts), 2, axis=1)
    return np.divide(one, other, out=np.full_like(one, np.nan), where=other != 0)


def _parts(total: int, width: int) -> Iterator[int]:
    rows = max(1, _CELLS // max(1, width))
    for start in range(0, total, rows):
        yield min(rows, total - start)
