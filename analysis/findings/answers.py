"""Did it help? One sentence per method, from its differences to the baseline and what stands beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from .._benchmarks import Difference, SampleRecord
from ..reading.load import Run, model_labels, row_labels
from ..reading.pairs import compare_rates
from .forest import LABELS
from .frontier import Identity, identity
from .guard import Guarded, guarded_pairs
from .trivial import BELOW

VERDICTS = {
    "helped": "Yes",
    "priced": "At a price",
    "trivial": "No more than a trivial change",
    "mixed": "Mixed",
    "none": "No difference found",
    "worse": "No, it made it worse",
    "unknown": "Too few images to tell",
}
"""What an answer can be → the words for it, the best first."""


class Answer(NamedTuple):
    """Whether a method helped a model.

    Attributes:
        model: short name of the model.
        row: the method's name in tables.
        verdict: a key of `VERDICTS`.
        sentence: the differences, with their intervals.
    """

    model: str
    row: str
    verdict: str
    sentence: str


class Clause(NamedTuple):
    """What was found on one task, or on several of one kind.

    Attributes:
        where: their names.
        metric: name of the rate of made-up things.
        rate: its difference; None where it is undefined.
        recall: likewise.
        same_length: difference in made-up mentions per caption of equal length; None for questions.
        trivial: task → the trivial change that beats the method there.
    """

    where: str
    metric: str
    rate: Difference | None
    recall: Difference | None
    same_length: Difference | None
    trivial: dict[str, str]


def did_it_help(runs: Sequence[Run]) -> list[Answer]:
    """An answer per model and method that has a baseline; of each model the best ones first.

    Yes/no tasks whose names differ in their last part alone, such as the splits of POPE, are taken together.
    """
    groups: dict[Identity, dict[str, list[Guarded]]] = {}
    for one in guarded_pairs(tuple(runs)):
        task = one.pair.task
        kind = task.rpartition("_")[0] or task if one.pair.baseline.is_yes_no else task
        groups.setdefault(identity(one.pair.method), {}).setdefault(kind, []).append(one)
    answers = []
    for kinds in groups.values():
        clauses = [_clause(kind, found) for kind, found in kinds.items()]
        pairs = [one.pair for found in kinds.values() for one in found]
        # Where one task has several configurations its labels tell them apart, and another's need not.
        row = max((pair.row for pair in pairs), key=len)
        answers.append(Answer(pairs[0].model, row, verdict(clauses), f"{'; '.join(map(_said, clauses))}."))
    ranks = list(VERDICTS)
    models = list(dict.fromkeys(one.model for one in answers))
    return sorted(answers, key=lambda one: (models.index(one.model), ranks.index(one.verdict)))


def unanswered(runs: Sequence[Run]) -> list[str]:
    """The methods without an answer, as they have no baseline, or no graded answers or captions."""
    models, rows = model_labels(runs), row_labels(runs)
    answered = {identity(one.pair.method) for one in guarded_pairs(tuple(runs))}
    alone = [run for run in runs if not run.is_baseline and identity(run) not in answered]
    return list(dict.fromkeys(f"{rows[run.folder]} on {models[run.model]}" for run in alone))


def verdict(clauses: Sequence[Clause]) -> str:
    """What several clauses say together: a key of `VERDICTS`."""
    found = {_verdict(clause) for clause in clauses}
    told = found - {"none", "unknown"}
    if not told:
        return "none" if "none" in found else "unknown"
    return told.pop() if len(told) == 1 else "mixed"


def sign(difference: Difference | None) -> int | None:
    """-1 for less, 1 for more, 0 where the interval holds both; None where there is no interval."""
    if difference is None or difference.interval is None:
        return None
    low, high = difference.interval
    return -1 if high < 0 else 1 if low > 0 else 0


def _verdict(clause: Clause) -> str:
    rate, recall = sign(clause.rate), sign(clause.recall)
    if rate is None:
        return "unknown"
    if rate > 0:
        return "worse"
    if rate == 0:
        return "worse" if recall == -1 else "none"
    if clause.trivial:
        return "trivial"
    return "priced" if recall == -1 else "helped"


def _clause(kind: str, found: Sequence[Guarded]) -> Clause:
    compared = found[0].compared
    if len(found) > 1:
        before, after = ([_named(sample, one) for one in found for sample in getattr(one.pair, side)]
                         for side in ("before", "after"))  # fmt: skip
        compared = compare_rates(before, after)
    first = found[0]
    parts = [one.pair.task.removeprefix(f"{kind}_") for one in found]
    return Clause(
        where=f"{kind} ({', '.join(parts)})" if len(found) > 1 else first.pair.task,
        metric=first.metric,
        rate=compared.differences.get(first.metric),
        recall=compared.differences.get("recall"),
        same_length=None if first.length is None else first.length.residual,
        trivial={
            part: one.beside.nearest
            for part, one in zip(parts, found, strict=True)
            if one.beside is not None and one.beside.frontier == BELOW
        },
    )


def _named(sample: SampleRecord, one: Guarded) -> SampleRecord:
    """Its name with the task's: two tasks may use one name, and an image is one image in both."""
    return dataclasses.replace(sample, id=f"{one.pair.task}/{sample.id}")


def _said(clause: Clause) -> str:
    said = f"on {clause.where} {LABELS[clause.metric]} {_points(clause.rate)} and recall {_points(clause.recall)}"
    if clause.same_length is not None:
        said += f", made-up mentions per 100 captions of the same length {_points(clause.same_length, unit='')}"
    if clause.trivial:
        labels = [f"“{label}”" + f" ({part})" * (len(clause.trivial) > 1) for part, label in clause.trivial.items()]
        said += f", beaten by a trivial change, the nearest {', '.join(labels)}"
    return said


def _points(difference: Difference | None, unit: str = " points") -> str:
    """A difference of fractions in points, with its interval; its sign always."""
    if difference is None:
        return "undefined"
    value, *bounds = (_signed(100 * of) for of in (difference.value, *(difference.interval or ())))
    return f"{value}{unit} ({' to '.join(bounds)})" if bounds else f"{value}{unit}"


def _signed(value: float) -> str:
    text = f"{value:+.1f}"
    return text.replace("-", "−") if float(text) else "0.0"
