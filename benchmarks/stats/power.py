"""What a comparison of a given size can find."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, norm

from .resampling import LEVEL

POWER = 0.8
"""The share of equal experiments that find a difference of the size that `detectable_difference` names."""
_STEPS = 40  # halvings of an interval of at most 1


def detectable_difference(n: int, changed_share: float) -> float | None:
    """The least difference of two paired proportions that McNemar's exact test at 5 % finds with 80 % power.

    With ψ the share of pairs of which one alone is right and δ the difference, the number of such pairs is binomial
    (n, ψ), and of these the number that is right in the second alone is binomial with (1 + δ/ψ) / 2. The power is the
    probability under both of a p of at most 5 % in `mcnemar_exact`, summed over all counts. No difference can be larger
    than ψ; where δ would be, ψ = δ is taken: all changes in one direction. It takes pairs for independent.

    Args:
        n: number of pairs.
        changed_share: ψ, 0 to 1, expected or observed.

    Returns:
        The difference (0–1); None where n is too small to find any.

    Raises:
        ValueError: for a negative n, or a share out of range.
    """
    if n < 0 or not 0 <= changed_share <= 1:
        raise ValueError(
            f"out of range: got n = {n}, share {changed_share}; expected n ≥ 0, 0 ≤ share ≤ 1. Check both."
        )
    changed = np.arange(n + 1)
    limit = _largest_rejected(changed)
    if exact_power(changed, limit, 1.0, 1.0) < POWER:
        return None
    if exact_power(changed, limit, changed_share, changed_share) >= POWER:
        return _least(lambda delta: exact_power(changed, limit, changed_share, delta), changed_share)
    return _least(lambda delta: exact_power(changed, limit, delta, delta), 1.0)


def images_to_tell(difference: float, error: float, images: int) -> int | None:
    """How many images an experiment needs to find a difference of this size: at 5 %, two-sided, with 80 % power.

    The error falls with the square root of the number of images, so that n · ((z₀.₉₇₅ + z₀.₈) · s / δ)² of them are
    needed. Source: Lachin 1981, Controlled Clinical Trials 2, 93. Where the size was itself seen on few images, so the
    number is a guess.

    Args:
        difference: δ, of two rates on the same images.
        error: s, its standard error over `images`.
        images: n, of which δ was seen.

    Returns:
        The number, those that are there included; None for no difference, which no number of images finds.

    Raises:
        ValueError: for a negative error or number.
    """
    if error < 0 or images < 0:
        raise ValueError(f"out of range: got error {error}, images {images}; expected both ≥ 0. Check both.")
    if difference == 0:
        return None
    quantiles = float(norm.ppf((1 + LEVEL) / 2) + norm.ppf(POWER))
    return math.ceil(images * (quantiles * error / difference) ** 2)


def exact_power(changed: NDArray[np.int64], limit: NDArray[np.int64], share: float, delta: float) -> float:
    """The power for a difference, all changes in one direction where it is as large as their share.

    Args:
        changed: numbers of changed pairs, 0 to n.
        limit: for each the largest number of the rarer change with which the test finds a difference; -1 for none.
        share: ψ, of changed pairs.
        delta: the difference, 0 to ψ.
    """
    if share == 0:
        return 0.0
    up = (1 + delta / share) / 2
    found = binom.cdf(limit, changed, up) + binom.cdf(limit, changed, 1 - up)
    return float(binom.pmf(changed, len(changed) - 1, share) @ found)


def _largest_rejected(changed: NDArray[np.int64]) -> NDArray[np.int64]:
    tail = (1 - LEVEL) / 2
    near = binom.ppf(tail, changed, 0.5)
    return np.where(binom.cdf(near, changed, 0.5) <= tail, near, near - 1).astype(np.int64)


def _least(power: Callable[[float], float], high: float) -> float:
    """The least difference up to `high`, where there is enough, with enough power; it grows with the difference."""
    low = 0.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high
