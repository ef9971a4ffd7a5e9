"""Two runs of one task, sample by sample: every metric's difference with its interval, and what changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..records import SampleRecord
from .areas import auc, resampled_auc
from .resampling import RESAMPLES, SEED, Interval, percentile_interval, resampled_ratios, unit_index
from .significance import mcnemar_exact
from .sums import SampleTable, ratios, yes_no_table


class Difference(NamedTuple):
    """Method minus baseline on the samples that both have, in the metric's unit; the interval is None if undefined."""

    value: float
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two runs of one task, sample by sample.

    Attributes:
        n: samples in both runs.
        images: units of resampling in both runs: images, and samples without one.
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


def compare_tables(
    baseline: SampleTable, method: SampleTable, *, seed: int = SEED, resamples: int = RESAMPLES
) -> Comparison:
    """Method against baseline on the samples that both have; the same images are drawn for both.

    Raises:
        ValueError: where the two share no sample, a sample occurs twice, or the same sample is about another image.
    """
    runs = paired_tables(baseline, method)
    values = [ratios(table) for table in runs]
    resampled = [
        resampled_ratios(table.numerators, table.denominators, table.images, seed=seed, resamples=resamples)
        for table in runs
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
        images=unit_index(runs[0].images)[0],
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
        resampled.append(resampled_auc(table.margins, table.positives, table.images, seed=seed, resamples=resamples))
    return Difference(areas[1] - areas[0], percentile_interval(resampled[1] - resampled[0]))


def paired_tables(baseline: SampleTable, method: SampleTable) -> tuple[SampleTable, SampleTable]:
    """The samples of both, in the baseline's order.

    Raises:
        ValueError: as `compare_tables`.
    """
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
