"""Correlation of samples that share images: the interval by bootstrap, the p by permutation of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._benchmarks import RESAMPLES, SEED, Bounds, bootstrap_weights, percentile_interval, permutation_p

_Floats = NDArray[np.float64]


class Correlation(NamedTuple):
    """A correlation; what is undefined is None, and `reason` says why.

    Attributes:
        r: the coefficient.
        interval: 95 %, bootstrap over images.
        p: two-sided, by permutation of images.
        p_error: its standard error, 0 where all permutations were tried.
        reason: why one of them is None; empty otherwise.
    """

    r: float | None
    interval: Bounds = (None, None)
    p: float | None = None
    p_error: float | None = None
    reason: str = ""


def correlate(
    x: _Floats,
    y: _Floats,
    images: Sequence[str],
    strata: Sequence[str],
    *,
    ranked: bool = False,
    within: Sequence[str] | None = None,
    seed: int = SEED,
    resamples: int = RESAMPLES,
) -> Correlation:
    """Correlation of two numbers per sample, (n,) each.

    The permutation exchanges x between images that have the same questions, so that whatever ties questions about one
    image together, and models to one another, stays. p is the share of permutations whose r is as far from the mean of
    all of them as the observed one: pooled over models that differ, the mean is not 0, and no number of images can test
    a difference between models.

    Args:
        x: a covariate such as entropy.
        y: an outcome; 0 and 1 make Pearson's r the point-biserial correlation.
        images: name of the image of each.
        strata: model and task of each: what permutations do not mix.
        ranked: Spearman's: Pearson's of the mid-ranks, within each group if there are groups.
        within: group of each, the mean of which is taken off both; None pools.
        seed: of all draws.
        resamples: number of resamples, and of permutations where they are too many to try all.
    """
    for name, values in (("x", x), ("y", y)):
        if len(values) < 3 or np.ptp(values) <= 1e-9 * max(1e-300, float(np.abs(values).max())):
            what = (
                f"{len(values)} samples"
                if len(values) < 3
                else f"one value, {values[0]:.4g}, in all {len(values)} samples"
            )
            return Correlation(None, reason=f"{name} has {what}: no correlation is defined")
    groups = (
        None if within is None else np.unique(np.asarray(within, dtype=np.str_), return_inverse=True)[1].reshape(-1)
    )
    one = np.ones((1, len(x)))
    r = float(weighted_correlation(x, y, one, groups=groups, ranked=ranked)[0])
    if not np.isfinite(r):
        return Correlation(None, reason="x or y does not vary within any group: no correlation is defined")
    parts = bootstrap_weights(images, seed=seed, resamples=resamples)
    drawn = [weighted_correlation(x, y, part, groups=groups, ranked=ranked) for part in parts]
    bounds: Bounds = percentile_interval(np.concatenate([np.empty(0), *drawn])) or (None, None)
    first, second = (_centred(_ranks(values, one, groups)[0] if ranked else values, groups) for values in (x, y))
    found = permutation_p(first, second, images, strata, seed=seed, permutations=resamples)
    reasons = []
    if found is None:
        reasons.append("no two images have the same questions, so that no p is defined")
    if bounds[0] is None:
        reasons.append("too few images for an interval")
    p, error = found or (None, None)
    return Correlation(r, bounds, p, error, "; ".join(reasons))


def weighted_correlation(
    x: _Floats, y: _Floats, weights: _Floats, *, groups: NDArray[np.int64] | None = None, ranked: bool = False
) -> _Floats:
    """Correlation for each row of sample weights, (rows, n) → (rows,); NaN where one of the two does not vary.

    A whole weight w counts a sample w times.

    Args:
        x: (n,) numbers.
        y: (n,) numbers.
        weights: (rows, n), none negative.
        groups: (n,) index of each sample's group, whose weighted mean is taken off; None for one group.
        ranked: by mid-ranks.
    """
    member = np.zeros(len(x), dtype=np.int64) if groups is None else groups
    count = int(member.max()) + 1
    one_hot = np.eye(count)[member]
    total = weights @ one_hot
    centred, scales = [], []
    for values in (x, y):
        # From their own middle, numbers that are all the same are exactly 0.
        known = _ranks(values, weights, groups) if ranked else np.broadcast_to(values - values.mean(), weights.shape)
        means = np.divide((weights * known) @ one_hot, total, out=np.zeros_like(total), where=total > 0)
        centred.append(known - means[:, member])
        scales.append(float(np.square(values - values.mean()).mean()) if not ranked else 1.0)
    mass = weights.sum(axis=1)
    products = [
        (weights * first * second).sum(axis=1) for first, second in ((centred[0],) * 2, (centred[1],) * 2, centred)
    ]
    flat = (products[0] <= 1e-12 * scales[0] * mass) | (products[1] <= 1e-12 * scales[1] * mass)
    scale = np.sqrt(products[0] * products[1])
    r = np.divide(products[2], scale, out=np.full(len(weights), np.nan), where=~flat)
    return np.clip(r, -1.0, 1.0)


def _ranks(values: _Floats, weights: _Floats, groups: NDArray[np.int64] | None) -> _Floats:
    """Mid-ranks of samples that count `weights` times, (rows, n); from 1 within each group."""
    ranks = np.empty(weights.shape)
    for rows in (
        [np.arange(len(values))] if groups is None else [np.flatnonzero(groups == g) for g in np.unique(groups)]
    ):
        order = rows[np.argsort(values[rows], kind="stable")]
        ordered = values[order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        tied = np.add.reduceat(weights[:, order], starts, axis=1)
        middle = np.cumsum(tied, axis=1) - tied + (tied + 1) / 2
        ranks[:, order] = np.repeat(middle, np.diff(np.append(starts, len(order))), axis=1)
    return ranks


def _centred(values: _Floats, groups: NDArray[np.int64] | None) -> _Floats:
    if groups is None:
        return values - values.mean()
    return values - (np.bincount(groups, values) / np.bincount(groups))[groups]
