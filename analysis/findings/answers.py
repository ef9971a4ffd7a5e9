"""Did it help? One sentence per method, from its differences to the baseline and what stands beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .._benchmarks import Difference, SampleRecord
from ..reading.load import Run, Setting, model_labels, row_labels, told_apart
from ..reading.pairs import compare_rates
from .forest import LABELS
from .frontier import Identity, identity, point_labels
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


class _Kind(NamedTuple):
    """What may be taken together: tasks of one kind, asked in one setting.

    Attributes:
        setting: of the runs, with the kind in place of the task.
        turn: how many runs of the same task and setting stand before it.
    """

    setting: Setting
    turn: int


class Clause(NamedTuple):
    """What was found on one task, or on several of one kind.

    Attributes:
        where: their names, with that in which their setting differs from another of the same kind.
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

    Yes/no tasks whose names differ in their last part alone, such as the splits of POPE, are taken together where they
    were asked of the same data in the same way. What differs in that is a clause of its own.
    """
    names = point_labels(runs)
    groups: dict[Identity, dict[_Kind, list[Guarded]]] = {}
    for one in guarded_pairs(tuple(runs)):
        found = groups.setdefault(identity(one.pair.method), {})
        found.setdefault(_kind(one, found), []).append(one)
    answers = []
    for key, kinds in groups.items():
        clauses = [_clause(_where(kind, kinds), kind.setting.task, found) for kind, found in kinds.items()]
        model = next(iter(kinds.values()))[0].pair.model
        answers.append(Answer(model, names[key], verdict(clauses), f"{'; '.join(map(_said, clauses))}."))
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


def _kind(one: Guarded, found: Mapping[_Kind, Sequence[Guarded]]) -> _Kind:
    """Which group of those found so far it belongs to, or the new one that it opens."""
    task = one.pair.task
    name = task.rpartition("_")[0] or task if one.length is None else task
    kind = _Kind(one.pair.method.setting._replace(task=name), 0)
    while any(task == other.pair.task for other in found.get(kind, ())):
        kind = kind._replace(turn=kind.turn + 1)
    return kind


def _where(kind: _Kind, kinds: Mapping[_Kind, Sequence[Guarded]]) -> str:
    """The names of its tasks, and what tells it from others of the same name."""
    name, found = kind.setting.task, kinds[kind]
    same = [other for other in kinds if other.setting.task == name]
    told = [told_apart([other.setting for other in same])[same.index(kind)], f"run {kind.turn + 1}" * (kind.turn > 0)]
    if len(found) > 1:
        told.insert(0, ", ".join(_part(one, name) for one in found))
    else:
        name = found[0].pair.task
    aside = "; ".join(filter(None, told))
    return f"{name} ({aside})" if aside else name


def _part(one: Guarded, kind: str) -> str:
    return one.pair.task.removeprefix(f"{kind}_")


def _clause(where: str, kind: str, found: Sequence[Guarded]) -> Clause:
    first = found[0]
    compared = first.compared
    if len(found) > 1:
        before, after = ([_named(sample, one) for one in found for sample in getattr(one.pair, side)]
                         for side in ("before", "after"))  # fmt: skip
        compared = compare_rates(before, after)
    return Clause(
        where=where,
        metric=first.metric,
        rate=compared.differences.get(first.metric),
        recall=compared.differences.get("recall"),
        same_length=None if first.length is None else first.length.residual,
        trivial={
            _part(one, kind): one.beside.nearest
            for one in found
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
