"""What each sample adds above and below the line of each metric: all but areas are ratios of two sums over samples."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..records import Found, SampleRecord, hallucinated_mentions


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


def caption_table(records: Sequence[SampleRecord]) -> SampleTable:
    """The table of graded captions, from `found`.

    Metrics: chair_i = hallucinated mentions / mentions, recall = objects mentioned that are there / objects there. Both
    are CHAIR's; of AMBER's grades they are its `chair` and `cover`. `correct` is a caption that hallucinates nothing.

    Raises:
        ValueError: for a record without a grade.
    """
    grades = graded(records)
    wrong = [len(hallucinated_mentions(found)) for found in grades]
    above = [(count, len(found["grounded"])) for count, found in zip(wrong, grades, strict=True)]
    below = [(len(found["mentions"]), len(found["grounded"]) + len(found["missed"])) for found in grades]
    return SampleTable(
        ids=[record.id for record in records],
        images=[record.image for record in records],
        metrics=("chair_i", "recall"),
        numerators=np.array(above, dtype=np.float64).reshape(-1, 2),
        denominators=np.array(below, dtype=np.float64).reshape(-1, 2),
        correct=np.array(wrong) == 0,
        answers=[record.output for record in records],
    )


def graded(records: Sequence[SampleRecord]) -> list[Found]:
    """What was found in each caption.

    Raises:
        ValueError: for a record without a grade.
    """
    lacking = [record.id for record in records if record.found is None]
    if lacking:
        raise ValueError(
            f"captions without a grade: got {len(lacking)}, the first is {lacking[0]!r}; expected what was found in "
            "each. Run `python -m benchmarks.run --rescore`."
        )
    return [record.found for record in records if record.found is not None]


def ratios(table: SampleTable) -> dict[str, float | None]:
    """Metric → sum of numerators over sum of denominators; None for 0/0."""
    above, below = table.numerators.sum(axis=0), table.denominators.sum(axis=0)
    return {
        name: float(above[column] / below[column]) if below[column] else None
        for column, name in enumerate(table.metrics)
    }
