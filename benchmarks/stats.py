"""Intervals and paired tests. The image is the unit: six questions about one picture are not six observations.

Every metric here but the area under the ROC curve is a ratio of two sums over samples. So a bootstrap needs only the
sums per image, and 2,000 resamples are one matrix product. Resampling is seeded: equal records give equal intervals.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, ndtri

from .records import SampleRecord

SEED = 20_140_501
RESAMPLES = 2_000
LEVEL = 0.95
_CELLS = 2_000_000  # entries of a matrix of multiplicities held at once: bounds memory, has no influence on results


class Interval(NamedTuple):
    """A 95 % interval, in the metric's unit."""

    low: float
    high: float


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
    )


def ratios(table: SampleTable) -> dict[str, float | None]:
    """Metric → sum of numerators over sum of denominators; None for 0/0."""
    above, below = table.numerators.sum(axis=0), table.denominators.sum(axis=0)
    return {
        name: float(above[column] / below[column]) if below[column] else None
        for column, name in enumerate(table.metrics)
    }


def ratio_intervals(table: SampleTable, *, seed: int = SEED, resamples: int = RESAMPLES) -> dict[str, Interval]:
    """Metric → percentile interval of a bootstrap over images; metrics without one are left out."""
    columns = zip(table.metrics, _resampled_ratios(table, seed, resamples).T, strict=True)
    found = {name: percentile_interval(column) for name, column in columns}
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
    area = _weighted_auc(values, classes, np.ones((1, len(values))))[0]
    return None if math.isnan(area) else float(area)


def auc_interval(
    margins: ArrayLike, positives: ArrayLike, images: Sequence[str], *, seed: int = SEED, resamples: int = RESAMPLES
) -> Interval | None:
    """Percentile interval of `auc` by a bootstrap over images, (n,) names; None where it is undefined.

    Raises:
        ValueError: as `auc`.
    """
    values, classes = _check_margins(margins, positives)
    return percentile_interval(_resampled_auc(values, classes, images, seed, resamples))


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


def compare_tables(
    baseline: SampleTable, method: SampleTable, *, seed: int = SEED, resamples: int = RESAMPLES
) -> Comparison:
    """Method against baseline on the samples that both have; the same images are drawn for both.

    Raises:
        ValueError: where the two share no sample, a sample occurs twice, or the same sample is about another image.
    """
    runs = _paired(baseline, method)
    values = [ratios(table) for table in runs]
    resampled = [_resampled_ratios(table, seed, resamples) for table in runs]
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


def _auc_difference(runs: Sequence[SampleTable], seed: int, resamples: int) -> Difference | str:
    areas, resampled = [], []
    for name, table in zip(("baseline", "method"), runs, strict=True):
        if table.margins is None or table.positives is None or np.isnan(table.margins).any():
            return f"margins are missing in the {name}"
        area = auc(table.margins, table.positives)
        if area is None:
            return "no positive or no negative samples"
        areas.append(area)
        resampled.append(_resampled_auc(table.margins, table.positives, table.images, seed, resamples))
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


def _clusters(images: Sequence[str]) -> tuple[int, NDArray[np.int64]]:
    """Number of images, and the index of each sample's: by name, so that the order of records makes no difference."""
    names, index = np.unique(np.asarray(images, dtype=np.str_), return_inverse=True)
    return len(names), index.reshape(-1)


def _multiplicities(clusters: int, seed: int, resamples: int, width: int) -> Iterator[NDArray[np.float64]]:
    """How often each image is drawn, (part of the resamples, clusters), in parts of at most `_CELLS` / `width` rows."""
    generator = np.random.default_rng(seed)
    rows = max(1, _CELLS // max(width, clusters))
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = generator.integers(0, clusters, size=(count, clusters), dtype=np.int64)
        flat = (drawn + np.arange(count)[:, None] * clusters).ravel()
        yield np.bincount(flat, minlength=count * clusters).reshape(count, clusters).astype(np.float64)


def _resampled_ratios(table: SampleTable, seed: int, resamples: int) -> NDArray[np.float64]:
    """The metrics of each resample, (resamples, m); NaN for 0/0. No rows for fewer than two images."""
    clusters, index = _clusters(table.images)
    if clusters < 2:
        return np.empty((0, len(table.metrics)))
    sums = np.zeros((clusters, 2 * len(table.metrics)))
    np.add.at(sums, index, np.concatenate([table.numerators, table.denominators], axis=1))
    totals = np.concatenate([part @ sums for part in _multiplicities(clusters, seed, resamples, sums.shape[1])])
    above, below = np.split(totals, 2, axis=1)
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)


def _resampled_auc(
    margins: NDArray[np.float64], positives: NDArray[np.bool_], images: Sequence[str], seed: int, resamples: int
) -> NDArray[np.float64]:
    """The area of each resample, (resamples,); NaN without both classes. Empty for fewer than two images."""
    clusters, index = _clusters(images)
    if clusters < 2:
        return np.empty(0)
    parts = _multiplicities(clusters, seed, resamples, len(margins))
    return np.concatenate([_weighted_auc(margins, positives, part[:, index]) for part in parts])


def _weighted_auc(
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
