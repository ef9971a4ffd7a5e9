"""What the report's sample browser shows: an answer before and after, and which of the many are worth a look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .._benchmarks import Found, SampleRecord, hallucinated_mentions
from ..drawing.tables import Cell, Table
from ..reading.load import Run, model_labels, row_labels
from ..reading.marking import MarkedText, mark_hallucinations
from ..reading.pairs import find_pairs

OUTCOMES: dict[str, str] = {
    "fixed": "a wrong answer became right; a caption has fewer hallucinated mentions and lost no object that is there",
    "broken": "a right answer became wrong; a caption has more hallucinated mentions and won no object that is there",
    "traded": "fewer hallucinated mentions, but an object that is there is no longer named; or more, but one is won",
    "changed": "another text, neither better nor worse by that count",
    "ungraded": "another text, and the records hold no grade that could tell which is better",
    "unchanged": "the same",
    "alone": "no baseline to compare with, or no method",
}
"""Outcome of a comparison → what it means, the most interesting first."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """One question or caption of one method.

    Attributes:
        model: short name of the model.
        task: name of the task.
        row: the method's name in tables.
        data: digest of the annotations.
        outcome: a key of `OUTCOMES`.
        before: the baseline's record; None for a method without a baseline.
        after: the method's record; None for a baseline alone.
        record: the method's record where there is one, else the baseline's.
        before_pieces: the baseline's output, hallucinated words marked.
        after_pieces: the method's output, likewise.
    """

    model: str
    task: str
    row: str
    data: str
    outcome: str
    before: SampleRecord | None
    after: SampleRecord | None
    record: SampleRecord
    before_pieces: tuple[MarkedText, ...]
    after_pieces: tuple[MarkedText, ...]


def shown_samples(runs: Sequence[Run]) -> list[list[Shown]]:
    """All comparisons, a list per pair of runs; of a run without a partner its samples alone."""
    pairs = find_pairs(runs).pairs
    groups = [
        [
            _compared(pair.model, pair.row, pair.method, before, after, after)
            for before, after in zip(pair.before, pair.after, strict=True)
        ]
        for pair in pairs
    ]
    paired = {run.folder for pair in pairs for run in (pair.baseline, pair.method)}
    models, rows = model_labels(runs), row_labels(runs)
    for run in runs:
        if run.folder not in paired:
            model, row = models[run.model], rows[run.folder]
            groups.append(
                [
                    _compared(model, row, run, one if run.is_baseline else None, None if run.is_baseline else one, one)
                    for one in run.samples
                ]
            )
    return groups


def outcome_table(groups: Sequence[Sequence[Shown]]) -> Table:
    """A row per pair of runs: how many answers each outcome has."""
    kinds = [name for name in OUTCOMES if name != "alone"]
    rows: list[tuple[Cell, ...]] = []
    for group in groups:
        counted = Counter(one.outcome for one in group)
        if not counted["alone"]:
            rows.append((group[0].model, group[0].task, group[0].row, len(group), *(counted[kind] for kind in kinds)))
    return Table(
        name="outcomes",
        title="Answers of each method beside the baseline's",
        columns=("model", "task", "row", "samples", *kinds),
        rows=tuple(rows),
    )


def choose_samples(groups: Sequence[Sequence[Shown]], limit: int) -> list[Shown]:
    """At most so many, the same share of each group; answers that changed before others, spread evenly over the rest.

    Returns:
        Sorted by outcome, then in the order of the groups.
    """
    chosen: list[Shown] = []
    left = limit
    by_size = sorted((group for group in groups if group), key=len)
    for done, group in enumerate(by_size):
        take = min(len(group), left // (len(by_size) - done))
        left -= take
        moved = [one for one in group if one.outcome not in ("unchanged", "alone")]
        rest = [one for one in group if one.outcome in ("unchanged", "alone")]
        chosen += _spread(moved, min(take, len(moved))) + _spread(rest, max(0, take - len(moved)))
    order = {id(one): number for number, one in enumerate(one for group in groups for one in group)}
    ranks = list(OUTCOMES)
    return sorted(chosen, key=lambda one: (ranks.index(one.outcome), order[id(one)]))


def _spread(samples: list[Shown], count: int) -> list[Shown]:
    return [samples[index * len(samples) // count] for index in range(count)]


def _compared(
    model: str,
    row: str,
    run: Run,
    before: SampleRecord | None,
    after: SampleRecord | None,
    record: SampleRecord,
) -> Shown:
    pieces = [() if one is None else tuple(mark_hallucinations(one)) for one in (before, after)]
    return Shown(
        model=model,
        task=run.record.task,
        row=row,
        data=run.record.data_sha256,
        outcome=_outcome(before, after),
        before=before,
        after=after,
        record=record,
        before_pieces=pieces[0],
        after_pieces=pieces[1],
    )


def _outcome(before: SampleRecord | None, after: SampleRecord | None) -> str:
    if before is None or after is None:
        return "alone"
    if before.outcome is not None or after.outcome is not None:
        right = [one.outcome in ("tp", "tn") for one in (before, after)]
        if right[0] != right[1]:
            return "fixed" if right[1] else "broken"
        return "unchanged" if before.answer == after.answer else "changed"
    if before.output == after.output:
        return "unchanged"
    if before.found is None or after.found is None:
        return "ungraded"
    return _caption_outcome(before.found, after.found)


def _caption_outcome(before: Found, after: Found) -> str:
    fewer = len(hallucinated_mentions(before)) - len(hallucinated_mentions(after))
    lost, won = set(before["grounded"]) - set(after["grounded"]), set(after["grounded"]) - set(before["grounded"])
    if fewer == 0:
        return "changed"
    if fewer > 0:
        return "traded" if lost else "fixed"
    return "traded" if won else "broken"
