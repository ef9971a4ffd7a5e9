"""Intervals and paired tests. The image is the unit: six questions about one picture are not six observations.

Metrics here, but for the area under the ROC curve, are ratios of two sums over samples. So a bootstrap needs only the
sums per image: 2,000 resamples are one matrix product. Resampling is seeded: equal records give equal intervals.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, ndtri

from .records import SampleRecord
from .resampling import LEVEL, Interval, percentile_interval, resampled_auc, resampled_ratios, weighted_auc

SEED = 20_140_501
RESAMPLES = 2_000
POWER = 0.8
"""The share of equal experiments that find a difference of the size that `detectable_difference` names."""


class Difference(NamedTuple):
    """Method minus baseline on the samples that both have, in the metric's unit; the interval is None if undefined."""

    value: float
    interval: Interval | None


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleTable:
    """What each sample of a run contributes to the run's metrics; n samples, m metrics.

    Attributes:
        ids: names of the samples.
        images: name of the image of each.
        metrics: names of the metrics that are ratios of sums.
        numerators: (n, m), what a sample adds above the line.
        denominators: (n, m), what it adds below.
        correct: (n,), whether the sample was answered without a fault.
        answers: what was answered, to count changes; None for unparsed.
        margins: (n,) scores for the area under the ROC curve, NaN where missing; None where the task has none.
        positives: (n,) which samples are positive; None where the task has no such thing.
        proportions: those metrics that are shares of samples: each adds 0 or 1 above the line, and 0 or 1 below.
    """

    ids: Sequence[str]
    images: Sequence[str]
    metrics: tuple[str, ...]
    numerators: NDArray[np.float64]
    denominators: NDArray[np.float64]
    correct: NDArray[np.bool_]
    answers: Sequence[str | None]
    margins: NDArray[np.float64] | None = None
    positives: NDArray[np.bool_] | None = None
    proportions: frozenset[str] = frozenset()

    def take(self, rows: Sequence[int]) -> SampleTable:
        """The table of some of its samples, in the order given."""
        index = np.asarray(rows, dtype=np.int64)
        taken: dict[str, Any] = {
            name: [getattr(self, name)[row] for row in rows] for name in ("ids", "images", "answers")
        }
        for name in ("numerators", "denominators", "correct", "margins", "positives"):
            array = getattr(self, name)
            taken[name] = None if array is None else array[index]
        return dataclasses.replace(self, **taken)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two runs of one task, sample by sample.

    Attributes:
        n: samples in both runs.
        images: images in both runs; the unit of resampling.
        unpaired: samples in one run only, left out.
        differences: metric → method minus baseline; a metric that is undefined in either run is left out.
        reasons: metric → why it is left out.
        changed: samples whose answer differs.
        right_to_wrong: samples that only the baseline got right.
        wrong_to_right: samples that only the method got right.
        mcnemar_p: exact two-sided p of the last two. It takes samples for independent, which questions about one image
            are not: the intervals decide, this stands beside them.
    """

    n: int
    images: int
    unpaired: int
    differences: dict[str, Difference]
    reasons: dict[str, str]
    changed: int
    right_to_wrong: int
    wrong_to_right: int
    mcnemar_p: float


def yes_no_table(records: Sequence[SampleRecord]) -> SampleTable:
    """The table of yes/no answers, from `outcome`, `answer`, `target` and `margin`.

    Metrics (source: RUCAIBox/POPE 3df3ba1, evaluate.py, except the last): accuracy = (TP+TN)/N, precision =
    TP/(TP+FP), recall = TP/(TP+FN), f1 = 2TP/(2TP+FP+FN), yes_ratio = (TP+FP)/N, hallucination_rate = FP/(FP+TN).
    A sample without an outcome is in N only: wrong for accuracy, no yes, and left out of the others.
    """
    outcomes = np.array([record.outcome or "" for record in records], dtype="U2")
    tp, fp, tn, fn = ((outcomes == name).astype(np.float64) for name in ("tp", "fp", "tn", "fn"))
    one = np.ones(len(records))
    ratios = {
        "accuracy": (tp + tn, one),
        "precision": (tp, tp + fp),
        "recall": (tp, tp + fn),
        "f1": (2 * tp, 2 * tp + fp + fn),
        "yes_ratio": (tp + fp, one),
        "hallucination_rate": (fp, fp + tn),
    }
    return SampleTable(
        ids=[record.id for record in records],
        images=[record.image for record in records],
        metrics=tuple(ratios),
        numerators=np.stack([pair[0] for pair in ratios.values()], axis=1),
        denominators=np.stack([pair[1] for pair in ratios.values()], axis=1),
        correct=(tp + tn).astype(bool),
        answers=[record.answer for record in records],
        margins=np.array(
            [math.nan if record.margin is None else record.margin for record in records], dtype=np.float64
        ),
        positives=np.array([record.target == "yes" for record in records], dtype=bool),
        proportions=frozenset(ratios) - {"f1"},
    )


def ratios(table: SampleTable) -> dict[str, float | None]:
    """Metric → sum of numerators over sum of denominators; None for 0/0."""
    above, below = table.numerators.sum(axis=0), table.denominators.sum(axis=0)
    return {
        name: float(above[column] / below[column]) if below[column] else None
        for column, name in enumerate(table.metrics)
    }


def ratio_intervals(table: SampleTable, *, seed: int = SEED, resamples: int = RESAMPLES) -> dict[str, Interval]:
    """Metric → its 95 % interval; metrics without one are left out.

    The share of answers that are of a kind, such as an accuracy, has Wilson's interval. It takes questions for
    independent, also those about one image; `compare_tables` does not. Any other ratio, such as F1 or CHAIR-i, has the
    percentile interval of a bootstrap over images, and none where samples have no image (its name is empty).
    """
    wilsons = _wilson_intervals(table)
    if not any(table.images):
        return wilsons
    columns = resampled_ratios(table.numerators, table.denominators, table.images, seed, resamples).T
    found = {n: wilsons.get(n, percentile_interval(column)) for n, column in zip(table.metrics, columns, strict=True)}
    return {name: interval for name, interval in found.items() if interval is not None}


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
    return percentile_interval(resampled_auc(values, classes, images, seed, resamples))


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
    z = float(ndtri((1 + LEVEL) / 2))
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the formula is exact only up to rounding, and an interval below 0 reads like a bug.
    return Interval(0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half)


def mcnemar_exact(wrong_to_right: int, right_to_wrong: int) -> float:
    """Two-sided exact p of McNemar's test: both changes are equally likely; 1.0 where nothing changed.

    Source: McNemar 1947, Psychometrika 12, 153, with the binomial distribution in place of the approximation.

    Raises:
        ValueError: for a negative count.
    """
    if min(wrong_to_right, right_to_wrong) < 0:
        raise ValueError(
            f"a count is negative: got {wrong_to_right}, {right_to_wrong}; expected ≥ 0. Check the counts."
        )
    discordant = wrong_to_right + right_to_wrong
    if discordant == 0:
        return 1.0
    return min(1.0, 2.0 * float(bdtr(min(wrong_to_right, right_to_wrong), discordant, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values of several tests by Holm's step-down method; in the order given, each at most 1.

    All that stay below a level are found at that level together: one false find among them is as rare as the level
    says, whatever the tests have to do with each other.

    Source: Holm 1979, Scand. J. Stat. 6, 65.

    Raises:
        ValueError: for a value that is no probability.
    """
    for p in p_values:
        if not 0 <= p <= 1:
            raise ValueError(f"no probability: got p = {p}; expected 0 to 1. Check the tests.")
    adjusted, largest = [1.0] * len(p_values), 0.0
    for step, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - step) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def detectable_difference(n: int, changed_share: float) -> float | None:
    """The least difference of two paired proportions that McNemar's test at 5 % finds with 80 % power.

    With ψ the share of pairs of which one alone is right and z the normal quantiles of level and power, n pairs find
    δ where √n δ = z₁ √ψ + z₂ √(ψ − δ²). No difference can be larger than ψ; where δ would be, ψ = δ is taken: all
    changes in one direction. It is an approximation for large n, and takes pairs for independent.

    Source: Connor 1987, Biometrics 43, 207 (its unconditional formula for n, solved for the difference).

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
    level, power = float(ndtri((1 + LEVEL) / 2)), float(ndtri(POWER))
    if n <= level**2:
        return None
    # ψ = δ: with u = √(1 − δ), √n √(1 − u²) = z₁ + z₂ u.
    root = (math.sqrt((level * power) ** 2 + (n + power**2) * (n - level**2)) - level * power) / (n + power**2)
    share = max(changed_share, 1 - root**2)
    discriminant = n + power**2 - level**2
    return math.sqrt(share) * (level * math.sqrt(n) + power * math.sqrt(discriminant)) / (n + power**2)


def compare_tables(
    baseline: SampleTable, method: SampleTable, *, seed: int = SEED, resamples: int = RESAMPLES
) -> Comparison:
    """Method against baseline on the samples that both have; the same images are drawn for both.

    Raises:
        ValueError: where the two share no sample, a sample occurs twice, or the same sample is about another image.
    """
    runs = _paired(baseline, method)
    values = [ratios(table) for table in runs]
    resampled = [
        resampled_ratios(table.numerators, table.denominators, table.images, seed, resamples) for table in runs
    ]
    differences: dict[str, Difference] = {}
    reasons: dict[str, str] = {}
    for column, name in enumerate(runs[0].metrics):
        before, after = values[0][name], values[1][name]
        if before is None or after is None:
            reasons[name] = f"undefined for the {'baseline' if before is None else 'method'}"
            continue
        interval = percentile_interval(resampled[1][:, column] - resampled[0][:, column])
        differences[name] = Difference(after - before, interval)
    if runs[0].margins is not None:
        found = _auc_difference(runs, seed, resamples)
        if isinstance(found, str):
            reasons["auc"] = found
        else:
            differences["auc"] = found
    right = [table.correct for table in runs]
    lost, won = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
    return Comparison(
        n=len(runs[0].ids),
        images=len(set(runs[0].images)),
        unpaired=len(baseline.ids) + len(method.ids) - 2 * len(runs[0].ids),
        differences=differences,
        reasons=reasons,
        changed=sum(one != other for one, other in zip(runs[0].answers, runs[1].answers, strict=True)),
        right_to_wrong=lost,
        wrong_to_right=won,
        mcnemar_p=mcnemar_exact(won, lost),
    )


def compare_yes_no(baseline: Sequence[SampleRecord], method: Sequence[SampleRecord]) -> Comparison:
    """`compare_tables` of two runs of a yes/no task, by the outcomes that their records hold.

    Raises:
        ValueError: as `compare_tables`.
    """
    return compare_tables(yes_no_table(baseline), yes_no_table(method))


def _wilson_intervals(table: SampleTable) -> dict[str, Interval]:
    found: dict[str, Interval] = {}
    for column, name in enumerate(table.metrics):
        if name in table.proportions:
            above, below = table.numerators[:, column], table.denominators[:, column]
            interval = wilson(int(above.sum()), int(below.sum()))
            if interval is not None:
                found[name] = interval
    return found


def _auc_difference(runs: Sequence[SampleTable], seed: int, resamples: int) -> Difference | str:
    areas, resampled = [], []
    for name, table in zip(("baseline", "method"), runs, strict=True):
        if table.margins is None or table.positives is None or np.isnan(table.margins).any():
            return f"margins are missing in the {name}"
        area = auc(table.margins, table.positives)
        if area is None:
            return "no positive or no negative samples"
        areas.append(area)
        resampled.append(resampled_auc(table.margins, table.positives, table.images, seed, resamples))
    return Difference(areas[1] - areas[0], percentile_interval(resampled[1] - resampled[0]))


def _paired(baseline: SampleTable, method: SampleTable) -> tuple[SampleTable, SampleTable]:
    """The samples of both, in the baseline's order."""
    if baseline.metrics != method.metrics:
        names = f"got metrics {baseline.metrics} and {method.metrics}"
        raise ValueError(f"the runs are of different tasks: {names}; expected the same. Compare runs of one task.")
    for table in (baseline, method):
        twice = [name for name, times in Counter(table.ids).items() if times > 1]
        if twice:
            what = f"a sample occurs twice: got {twice[:3]}"
            raise ValueError(f"{what}; expected one record each. Delete the repetitions.")
    own, others = ({name: row for row, name in enumerate(table.ids)} for table in (baseline, method))
    shared = [name for name in baseline.ids if name in others]
    if not shared:
        raise ValueError(
            f"the runs share no sample: got {list(baseline.ids[:3])} and {list(method.ids[:3])}; "
            "expected the same questions. Compare runs of one task, data set and seed."
        )
    before, after = baseline.take([own[name] for name in shared]), method.take([others[name] for name in shared])
    for name, one, other in zip(shared, _questions(before), _questions(after), strict=True):
        if one != other:
            raise ValueError(
                f"sample {name!r} is not the same in both runs: got (image, positive) {one} and {other}; "
                "expected one question. Compare runs of one data set and seed."
            )
    return before, after


def _questions(table: SampleTable) -> list[tuple[str, bool | None]]:
    classes = [None] * len(table.ids) if table.positives is None else table.positives.tolist()
    return list(zip(table.images, classes, strict=True))


def _check_margins(margins: ArrayLike, positives: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values, classes = np.asarray(margins, dtype=np.float64), np.asarray(positives, dtype=bool)
    if values.ndim != 1 or values.shape != classes.shape or np.isnan(values).any():
        raise ValueError(
            f"margins and classes do not fit: got shapes {values.shape} and {classes.shape}, "
            f"{int(np.isnan(values).sum())} NaN; expected one number per sample. Leave out samples without a margin."
        )
    return values, classes
