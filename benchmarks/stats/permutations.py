"""Tests by exchange: of values between images, and of two runs image by image. Where ways are few, all are tried."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .resampling import RESAMPLES, SEED, in_parts, unit_index

COUNTED = 2**14
"""Up to so many ways to exchange are all tried; of more, as many as asked for are drawn."""
_TINY = 1e-12  # of the observed value: ways that give the same but for rounding are as extreme

_Rows = NDArray[np.int64]
_Sums = tuple[NDArray[np.float64], NDArray[np.float64]]


class PValue(NamedTuple):
    """A two-sided p. Where ways were drawn it is (1 + as extreme) / (1 + drawn), never 0.

    Attributes:
        p: the value.
        error: its standard error, √(p (1 − p) / drawn), since another seed draws other ways; 0 where all were tried.
    """

    p: float
    error: float


def permutation_p(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    images: Sequence[str],
    strata: Sequence[str],
    *,
    seed: int = SEED,
    permutations: int = RESAMPLES,
) -> PValue | None:
    """Two-sided p that two numbers of each sample, (n,) both, have nothing to do with each other.

    p is the share of exchanges of the first between images whose sum of products is as far from the expected one as the
    observed is. The expected one is exact: the mean over all exchanges, in which each value of a group of exchangeable
    images is as often at each place of it.

    Args:
        first: what is exchanged.
        second: what stays.
        images: name of the image of each sample, (n,).
        strata: what a sample may not leave, its model and task, (n,).
        seed: of the draws.
        permutations: how many are drawn where they are too many to count.

    Returns:
        p; None where no two images are exchangeable.
    """
    groups = _exchangeable(images, strata)
    if not groups:
        return None
    expected = first.astype(np.float64)
    for group in groups:
        expected[group] = first[group].mean(axis=0)
    centre, observed = float(expected @ second), float(first @ second)
    least = abs(observed - centre) - _TINY * float(np.linalg.norm(first) * np.linalg.norm(second))
    extreme = tried = 0
    for rows in image_permutations(images, strata, seed=seed, permutations=permutations):
        extreme += int((np.abs(first[rows] @ second - centre) >= least).sum())
        tried += len(rows)
    return _p_value(extreme, tried, counted=_ways(groups) <= COUNTED)


def image_permutations(
    images: Sequence[str], strata: Sequence[str], *, seed: int = SEED, permutations: int = RESAMPLES
) -> Iterator[_Rows]:
    """Rows exchanged between images as whole blocks, in parts (permutations of the part, n).

    Images are exchangeable that have the same number of samples in each stratum: a block then lands on rows of the same
    strata. All ways, each once, where they are at most `COUNTED`. Nothing where no two images are exchangeable.

    Args:
        images: name of the image of each sample, (n,).
        strata: what a sample may not leave, its model and task, (n,).
        seed: of the draws.
        permutations: how many are drawn where they are too many to count.
    """
    groups, size = _exchangeable(images, strata), len(images)
    if not groups:
        return
    if _ways(groups) <= COUNTED:
        ways = itertools.product(*(itertools.permutations(range(len(group))) for group in groups))
        for count in in_parts(_ways(groups), size):
            orders = list(itertools.islice(ways, count))
            yield _exchanged(groups, size, [np.array([way[one] for way in orders]) for one in range(len(groups))])
        return
    generator = np.random.default_rng(seed)
    for count in in_parts(permutations, size):
        ranges = (np.tile(np.arange(len(group)), (count, 1)) for group in groups)
        yield _exchanged(groups, size, [generator.permuted(rows, axis=1) for rows in ranges])


def sign_flip_p(
    before: _Sums, after: _Sums, images: Sequence[str], *, seed: int = SEED, flips: int = 9_999
) -> PValue | None:
    """Two-sided p that a rate is the same in two runs on the same samples: swaps the two, image by image.

    Unlike McNemar's test it does not take questions about one image for independent. Images on which both runs are the
    same count for no way to swap.

    Args:
        before: what each sample adds above and below the line of the rate, (n,) twice.
        after: the same of the other run.
        images: name of the image of each sample, (n,).
        seed: of the swaps.
        flips: how many are drawn where they are too many to count.

    Returns:
        p; None where a rate is undefined.
    """
    units, index = unit_index(images)
    one, other = (np.zeros((units, 2)) for _ in range(2))
    for sums, columns in ((one, before), (other, after)):
        np.add.at(sums, index, np.stack(columns, axis=1))
    total, both = one.sum(axis=0), one.sum(axis=0) + other.sum(axis=0)
    if not total[1] or not both[1] - total[1]:
        return None
    change = (other - one)[np.any(other != one, axis=1)]
    observed = abs((both - total)[0] / (both - total)[1] - total[0] / total[1])
    counted = 2 ** len(change) <= COUNTED
    extreme = defined = 0
    for swapped in _all_flips(len(change)) if counted else _drawn_flips(len(change), seed, flips):
        first = total + swapped @ change
        second = both - first
        fine = (first[:, 1] > 0) & (second[:, 1] > 0)
        found = np.abs(second[fine, 0] / second[fine, 1] - first[fine, 0] / first[fine, 1])
        extreme += int((found >= observed - _TINY).sum())
        defined += int(fine.sum())
    return _p_value(extreme, defined, counted=counted)


def _p_value(extreme: int, tried: int, *, counted: bool) -> PValue:
    if counted:
        return PValue(extreme / tried, 0.0)
    p = (1 + extreme) / (1 + tried)
    return PValue(p, math.sqrt(p * (1 - p) / tried))


def _exchangeable(images: Sequence[str], strata: Sequence[str]) -> list[_Rows]:
    """Groups of images that may be exchanged, each (images of the group, samples of an image): rows of the samples."""
    _, index = unit_index(images)
    order = np.lexsort((np.arange(len(index)), np.asarray(strata, dtype=np.str_), index))
    groups: dict[tuple[str, ...], list[_Rows]] = {}
    for block in np.split(order, np.flatnonzero(np.diff(index[order])) + 1):
        groups.setdefault(tuple(strata[row] for row in block), []).append(block)
    return [np.stack(group) for group in groups.values() if len(group) > 1]


def _ways(groups: Sequence[_Rows]) -> int:
    return math.prod(math.factorial(len(group)) for group in groups)


def _exchanged(groups: Sequence[_Rows], size: int, orders: Sequence[_Rows]) -> _Rows:
    rows = np.tile(np.arange(size, dtype=np.int64), (len(orders[0]), 1))
    for group, order in zip(groups, orders, strict=True):
        rows[:, group.ravel()] = group[order].reshape(len(order), -1)
    return rows


def _all_flips(units: int) -> Iterator[NDArray[np.float64]]:
    numbers = np.arange(2**units)[:, None]
    yield (numbers >> np.arange(units) & 1).astype(np.float64)


def _drawn_flips(units: int, seed: int, flips: int) -> Iterator[NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    for count in in_parts(flips, units):
        yield generator.integers(0, 2, size=(count, units)).astype(np.float64)
