"""The summary: every run's metrics with their intervals, a table per task."""

from __future__ import annotations

from collections.abc import Sequence

from .._benchmarks import auc, auc_interval, ratio_intervals, ratios, yes_no_table
from ..drawing.escaping import for_name
from ..drawing.tables import Cell, Table
from ..reading.load import Run, model_labels, row_labels
from ..reading.pairs import find_pairs
from .finding import Finding

Metrics = dict[str, tuple[float | None, float | None, float | None]]
"""Name → value, lower and upper bound."""


def run_metrics(run: Run) -> Metrics:
    """The metrics that the run recorded; of an unfinished yes/no run those of its samples so far."""
    if run.record.metrics:
        bounds = {name: tuple(pair) for name, pair in run.record.intervals.items() if len(pair) == 2}
        return {name: (value, *bounds.get(name, (None, None))) for name, value in run.record.metrics.items()}
    return yes_no_metrics(run) if run.is_yes_no else {}


def yes_no_metrics(run: Run) -> Metrics:
    """The metrics of a yes/no run's samples, by the outcomes that they hold."""
    table = yes_no_table(run.samples)
    bounds = ratio_intervals(table)
    found: Metrics = {name: (value, *(bounds.get(name) or (None, None))) for name, value in ratios(table).items()}
    known = [
        (sample.margin, sample.target == "yes", sample.image) for sample in run.samples if sample.margin is not None
    ]
    if len(known) == len(run.samples):
        margins, positives, images = zip(*known, strict=True)
        found["auc"] = (auc(margins, positives), *(auc_interval(margins, positives, images) or (None, None)))
    return found


def summary_tables(runs: Sequence[Run]) -> list[Table]:
    """A table per task: a row per run, a column per metric with its interval."""
    models, rows = model_labels(runs), row_labels(runs)
    tables = []
    for task in dict.fromkeys(run.record.task for run in runs):
        own = [run for run in runs if run.record.task == task]
        own.sort(key=lambda run: (models[run.model], not run.is_baseline, rows[run.folder]))
        found = [run_metrics(run) for run in own]
        names = list(dict.fromkeys(name for metrics in found for name in metrics))
        units = {name: unit for run in own for name, unit in run.record.units.items()}
        columns = [bound for name in names for bound in (name, f"{name}_low", f"{name}_high")]
        lines: list[tuple[Cell, ...]] = []
        for run, metrics in zip(own, found, strict=True):
            cells = [cell for name in names for cell in metrics.get(name, (None, None, None))]
            lines.append((models[run.model], rows[run.folder], len(run.samples), *cells))
        told = "; ".join(f"{name} in {units[name]}" for name in names if name in units)
        tables.append(
            Table(
                name=f"summary_{for_name(task)}",
                title=f"{task}: all runs, with 95 % intervals",
                columns=("model", "row", "samples", *columns),
                rows=tuple(lines),
                percent=frozenset(
                    column
                    for column in columns
                    if column.removesuffix("_low").removesuffix("_high") not in {*units, "auc"}
                ),
                notes=(f"{told}.",) if told else (),
            )
        )
    return tables


def readout_table(runs: Sequence[Run]) -> Table:
    """What each run's margins are read from: how often one of those ids was the likeliest, and their probability."""
    models, rows = model_labels(runs), row_labels(runs)
    lines: list[tuple[Cell, ...]] = []
    for run in runs:
        found = run.record.readout
        if found is not None and found["answers"]:
            likeliest = "; ".join(f"{one['text']!r} ({one['token']}) {one['count']}" for one in found["argmax"])
            ids = (" ".join(map(str, one)) for one in (found["yes"], found["no"]))
            told = (found["answers"], found["won"] / found["answers"], found["mass"], likeliest, *ids)
            lines.append((models[run.model], run.record.task, rows[run.folder], *told))
    return Table(
        name="readout",
        title="what margins are read from, and what answers begin with",
        columns=("model", "task", "row", "answers", "won", "mass", "likeliest", "ids_of_yes", "ids_of_no"),
        rows=tuple(lines),
        percent=frozenset({"won", "mass"}),
    )


def summary_findings(runs: Sequence[Run]) -> list[Finding]:
    """All runs in tables, and sentences about those that cannot be compared."""
    reasons = [
        f"{run.record.task}, {run.row}: no {name}, {reason}."
        for run in runs
        for name, reason in run.record.reasons.items()
    ]
    warned = [
        f"{run.record.task}, {run.row}: {run.record.readout['warning']}"
        for run in runs
        if run.record.readout is not None and run.record.readout["warning"] is not None
    ]
    notes = (*dict.fromkeys(reasons), *warned, *find_pairs(runs).problems)
    readout = readout_table(runs)
    data = (readout,) if readout.rows else ()
    return [Finding(title="summary", tables=tuple(summary_tables(runs)), data=data, notes=notes)]
