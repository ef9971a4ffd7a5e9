"""The area under the ROC curve, of all samples and of resamples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .resampling import RESAMPLES, SEED, Interval, bootstrap_weights, percentile_interval


def auc(margins: ArrayLike, positives: ArrayLike) -> float | None:
    """Area under the ROC curve: how often a positive has the larger margin than a negative; ties count half.

    Args:
        margins: (n,) scores; infinities are fine, NaN is not.
        positives: (n,) which are positive.

    Returns:
        The area (0–1); None where one of the two classes is empty.

    Raises:
        ValueError: for NaN, or another number of margins than of classes.
    """
    values, classes = _check_margins(margins, positives)
    area = weighted_auc(values, classes, np.ones((1, len(values))))[0]
    return None if math.isnan(area) else float(area)


def auc_interval(
    margins: ArrayLike, positives: ArrayLike, images: Sequence[str], *, seed: int = SEED, resamples: int = RESAMPLES
) -> Interval | None:
    """Percentile interval of `auc` by a bootstrap over images, (n,) names; None where it is undefined.

    Raises:
        ValueError: as `auc`.
    """
    values, classes = _check_margins(margins, positives)
    return percentile_interval(resampled_auc(values, classes, images, seed=seed, resamples=resamples))


def resampled_auc(
    margins: NDArray[np.float64],
    positives: NDArray[np.bool_],
    images: Sequence[str],
    *,
    seed: int = SEED,
    resamples: int = RESAMPLES,
) -> NDArray[np.float64]:
    """The area of each resample, (resamples,); NaN without both classes. Empty for fewer than two units."""
    parts = bootstrap_weights(images, seed=seed, resamples=resamples)
    return np.concatenate([np.empty(0), *(weighted_auc(margins, positives, part) for part in parts)])


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


def _check_margins(margins: ArrayLike, positives: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values, classes = np.asarray(margins, dtype=np.float64), np.asarray(positives, dtype=bool)
    if values.ndim != 1 or values.shape != classes.shape or np.isnan(values).any():
        raise ValueError(
            f"margins and classes do not fit: got shapes {values.shape} and {classes.shape}, "
            f"{int(np.isnan(values).sum())} NaN; expected one number per sample. Leave out samples without a margin."
        )
    return values, classes
