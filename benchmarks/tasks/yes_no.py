"""What all tasks with yes/no questions share: grading by a rule, counts, rates and the area under the ROC curve."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..records import RecordError, SampleRecord
from ..stats import SampleTable, auc, auc_interval, yes_no_table
from .base import Grade, Scores, Task, score_ratios
from .parsing import parse_yes_no

_OUTCOMES = {("yes", "yes"): "tp", ("no", "yes"): "fp", ("no", "no"): "tn", ("yes", "no"): "fn"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Aggregation:
    """How parsed answers become rates. By default as in `benchmarks.stats.yes_no_table`.

    An unparsed answer always is wrong for `accuracy` and no yes for `yes_ratio` and `precision`.

    Attributes:
        unparsed_is_no: whether an unparsed answer counts as a no for `recall`, `f1` and `hallucination_rate`, rather
            than being left out of them.
        yes_ratio_of_targets: whether `yes_ratio` is that of the true answers, whatever was said.
        f1_of_rates: whether F1 is 2PR/(P+R), which without a true positive is 0/0, rather than 2TP/(2TP+FP+FN).
    """

    unparsed_is_no: bool = False
    yes_ratio_of_targets: bool = False
    f1_of_rates: bool = False


AGGREGATIONS: dict[str, Aggregation] = {
    "pope": Aggregation(f1_of_rates=True),
    "vcd": Aggregation(f1_of_rates=True),
    "lmms-eval": Aggregation(yes_ratio_of_targets=True),
    "vlmevalkit": Aggregation(unparsed_is_no=True),
}
"""Name of a rule → how its implementation aggregates, sources as in `parse_yes_no`; a rule that is not here: default.

`vcd` needs no entry for what it cannot tell: its parser already calls that the wrong answer, a false negative or a
false positive. lmms-eval and VLMEvalKit write 0 where a rate has nothing below its line; here it is undefined.
"""

_UNDEFINED = {
    "accuracy": "no questions",
    "precision": "no answer was yes",
    "recall": "no question with the answer yes was answered",
    "f1": "no question with the answer yes was answered yes: F1 is 0/0",
    "yes_ratio": "no questions",
    "hallucination_rate": "no question with the answer no was answered",
}


class YesNoTask(Task):
    """A task of yes/no questions; "yes" is the positive class. Metrics: see `benchmarks.stats.yes_no_table`, and `auc`.

    An unparsed answer is wrong for `accuracy`, no yes for `yes_ratio`, and left out of the other rates, unless the
    rule's implementation has it otherwise: see `AGGREGATIONS`. A sample that
    failed with an error is unparsed, whatever a rule makes of its empty output.
    """

    kind = "yes_no"

    def grade(self, target: Any, output: str) -> Grade:
        """The answer by the task's rule, and its outcome.

        Raises:
            RecordError: for a target that is neither "yes" nor "no".
        """
        return _grade(target, output, self.rule)

    def table(self, records: Sequence[SampleRecord]) -> SampleTable:
        """What each record contributes to the metrics, graded again from its output and target."""
        return aggregate(grade_again(records, self.rule), self.rule)

    def score(self, records: Sequence[SampleRecord]) -> Scores:
        """The scores of a run: see `score_answers`."""
        return score_answers(records, self.rule)


def score_answers(records: Sequence[SampleRecord], rule: str) -> Scores:
    """The scores of answers to yes/no questions, graded again from outputs and targets.

    Counts: n, tp, fp, tn, fn, unparsed, and unparsed_strict, how many answers the rule `strict` cannot tell.

    Args:
        records: the answers.
        rule: a name of `benchmarks.tasks.parsing.RULES`; it parses, and decides what the rates are made of.

    Raises:
        RecordError: for a target that is neither "yes" nor "no".
        ConfigError: for an unknown rule.
    """
    graded = grade_again(records, rule)
    scores = score_ratios(aggregate(graded, rule), _UNDEFINED)
    value, interval, reason = _auc(graded)
    metrics = {**scores.metrics, "auc": value}
    intervals = {**scores.intervals, **({} if interval is None else {"auc": interval})}
    reasons = {**scores.reasons, **({} if reason is None else {"auc": reason})}
    return Scores(metrics=metrics, counts=count_outcomes(graded), intervals=intervals, reasons=reasons)


def count_outcomes(graded: Sequence[SampleRecord]) -> dict[str, int]:
    """The counts of `score_answers`, of graded answers."""
    outcomes = Counter(record.outcome for record in graded)
    return {
        "n": len(graded),
        **{name: outcomes[name] for name in ("tp", "fp", "tn", "fn")},
        "unparsed": sum(record.answer is None for record in graded),
        "unparsed_strict": sum(record.answer is None for record in grade_again(graded, "strict")),
    }


def aggregate(graded: Sequence[SampleRecord], rule: str) -> SampleTable:
    """What each graded answer contributes to the rates, in the way of the rule's implementation."""
    how, table = AGGREGATIONS.get(rule, Aggregation()), yes_no_table(graded)
    above, below = table.numerators.copy(), table.denominators.copy()
    column = {name: number for number, name in enumerate(table.metrics)}
    positive = np.array([record.target == "yes" for record in graded], dtype=bool)
    unparsed = np.array([record.outcome is None for record in graded], dtype=bool)
    if how.unparsed_is_no:
        for name in ("recall", "f1"):
            below[unparsed & positive, column[name]] = 1
        below[unparsed & ~positive, column["hallucination_rate"]] = 1
    if how.yes_ratio_of_targets:
        above[:, column["yes_ratio"]] = positive
    if how.f1_of_rates and not above[:, column["f1"]].any():
        below[:, column["f1"]] = 0
    return dataclasses.replace(table, numerators=above, denominators=below)


def _grade(target: Any, output: str, rule: str) -> Grade:
    if target not in ("yes", "no"):
        raise RecordError(
            f"a yes/no question has a wrong target: got {target!r}; expected 'yes' or 'no'. Check the questions."
        )
    answer = parse_yes_no(output, rule, target)
    return Grade(answer, None if answer is None else _OUTCOMES[target, answer])


def grade_again(records: Sequence[SampleRecord], rule: str) -> list[SampleRecord]:
    """The records, graded again; one that failed with an error is unparsed, whatever a rule makes of its output."""
    graded = []
    for record in records:
        failed = record.error is not None
        grade = Grade(None, None) if failed else _grade(record.target, record.output, rule)
        graded.append(dataclasses.replace(record, answer=grade.answer, outcome=grade.outcome))
    return graded


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
