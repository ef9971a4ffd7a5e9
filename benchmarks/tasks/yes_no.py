"""What all tasks with yes/no questions share: grading by a rule, counts, rates and the area under the ROC curve."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..parsing import parse_yes_no
from ..records import RecordError, SampleRecord
from ..stats import SampleTable, auc, auc_interval, yes_no_table
from .base import Grade, Scores, Task, score_ratios

_OUTCOMES = {("yes", "yes"): "tp", ("no", "yes"): "fp", ("no", "no"): "tn", ("yes", "no"): "fn"}
_UNDEFINED = {
    "accuracy": "no questions",
    "precision": "no answer was yes",
    "recall": "no question with the answer yes was answered",
    "f1": "no answer was yes and no question had the answer yes",
    "yes_ratio": "no questions",
    "hallucination_rate": "no question with the answer no was answered",
}


class YesNoTask(Task):
    """A task of yes/no questions; "yes" is the positive class. Metrics: see `benchmarks.stats.yes_no_table`, and `auc`.

    An unparsed answer is wrong for `accuracy`, no yes for `yes_ratio`, and left out of the other rates. A sample that
    failed with an error is unparsed, whatever a rule makes of its empty output.
    """

    kind = "yes_no"

    def grade(self, target: Any, output: str) -> Grade:
        """The answer by the task's rule, and its outcome.

        Raises:
            RecordError: for a target that is neither "yes" nor "no".
        """
        return self._grade(target, output, self.rule)

    def table(self, records: Sequence[SampleRecord]) -> SampleTable:
        """What each record contributes to the metrics, graded again from its output and target."""
        return yes_no_table(self._graded(records))

    def score(self, records: Sequence[SampleRecord]) -> Scores:
        """The scores of a run.

        Counts: n, tp, fp, tn, fn, unparsed, and unparsed_strict, how many answers the rule `strict` cannot tell.
        """
        graded = self._graded(records)
        scores = score_ratios(yes_no_table(graded), _UNDEFINED)
        outcomes = Counter(record.outcome for record in graded)
        strict = (
            record.error is None and self._grade(record.target, record.output, "strict").answer for record in graded
        )
        counts = {
            "n": len(graded),
            **{name: outcomes[name] for name in ("tp", "fp", "tn", "fn")},
            "unparsed": sum(record.answer is None for record in graded),
            "unparsed_strict": sum(not answer for answer in strict),
        }
        value, interval, reason = _auc(graded)
        metrics = {**scores.metrics, "auc": value}
        intervals = {**scores.intervals, **({} if interval is None else {"auc": interval})}
        reasons = {**scores.reasons, **({} if reason is None else {"auc": reason})}
        return Scores(metrics=metrics, counts=counts, intervals=intervals, reasons=reasons)

    def _graded(self, records: Sequence[SampleRecord]) -> list[SampleRecord]:
        graded = []
        for record in records:
            failed = record.error is not None
            answer, outcome = Grade(None, None) if failed else self.grade(record.target, record.output)
            graded.append(dataclasses.replace(record, answer=answer, outcome=outcome))
        return graded

    def _grade(self, target: Any, output: str, rule: str) -> Grade:
        if target not in ("yes", "no"):
            raise RecordError(
                f"a yes/no question has a wrong target: got {target!r}; expected 'yes' or 'no'. Check the questions."
            )
        answer = parse_yes_no(output, rule, target)
        return Grade(answer, None if answer is None else _OUTCOMES[target, answer])


def _auc(records: Sequence[SampleRecord]) -> tuple[float | None, list[float] | None, str | None]:
    """The area, its interval, and why there is none."""
    margins = [math.nan if record.margin is None else record.margin for record in records]
    missing = sum(map(math.isnan, margins))
    if missing:
        # An area over the rest would be one of other questions than the rates beside it.
        return None, None, f"{missing} of {len(records)} answers have no margin"
    positives = [record.target == "yes" for record in records]
    value = auc(margins, positives)
    if value is None:
        return None, None, "no questions with the answer yes, or none with the answer no"
    interval = auc_interval(margins, positives, [record.image for record in records])
    return value, None if interval is None else list(interval), None
