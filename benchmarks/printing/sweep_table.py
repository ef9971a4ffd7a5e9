"""What a sweep prints: per task and factor each value's metrics, and its differences to the baseline and the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from ..running.cells import recorded_samples
from ..running.methods import BASELINE, by_part
from ..running.outcomes import Outcome
from ..running.plan import Plan
from ..stats import Comparison, holm
from ..studies.sweeps import Sweep, Variation, label
from .console import LABELS, Printer, interval_text, value_text
from .table import lab_warning, otherwise_lines

LEVEL = 0.05
_BASE = "base"
_AT_MOST = 3
# Those that decide, for the tasks that have them; of other tasks the first ones.
_DECIDING = (("accuracy", "hallucination_rate", "auc"), ("chair_s", "chair_i", "recall"))


@dataclass(frozen=True, kw_only=True, eq=False)
class SweepRow:
    """One configuration on one task.

    Attributes:
        outcome: its run.
        is_base: whether it is the base configuration.
        to_none: against the unpatched model.
        to_base: against the base configuration; None for itself.
        p_none: McNemar's p of `to_none` by Holm's method, over all configurations and tasks of the sweep.
        p_base: the same of `to_base`.
    """

    outcome: Outcome
    is_base: bool
    to_none: Comparison
    to_base: Comparison | None
    p_none: float
    p_base: float | None


def sweep_rows(sweep: Sweep, outcomes: Sequence[Outcome]) -> dict[tuple[str, str], SweepRow]:
    """Compare every configuration with the baseline and the base.

    Args:
        sweep: what was run.
        outcomes: what came out.

    Returns:
        (task, digest of the run's folder) → row; configurations that several tables share are compared once.
    """
    compared: dict[tuple[str, str], tuple[Outcome, Comparison, Comparison | None]] = {}
    for task, own in _by_task(outcomes).items():
        none = next(one for one in own if one.cell.row == BASELINE)
        base = next(one for one in own if one.cell.folder.digest == sweep.base.digests[task])
        for one in own:
            if one.cell.method != BASELINE:
                compare = one.cell.work.task.compare
                to_base = None if one is base else compare(base.records, one.records)
                compared[task, one.cell.folder.digest] = (one, compare(none.records, one.records), to_base)
    p_none = iter(holm([to_none.mcnemar_p for _, to_none, _ in compared.values()]))
    p_base = iter(holm([to_base.mcnemar_p for *_, to_base in compared.values() if to_base is not None]))
    return {
        key: SweepRow(
            outcome=one,
            is_base=to_base is None,
            to_none=to_none,
            to_base=to_base,
            p_none=next(p_none),
            p_base=None if to_base is None else next(p_base),
        )
        for key, (one, to_none, to_base) in compared.items()
    }


def print_sweep(sweep: Sweep, outcomes: Sequence[Outcome], file: TextIO | None = None) -> None:
    """Print a table per task and factor, and what survives Holm's correction.

    Args:
        sweep: what was run.
        outcomes: what came out, as `benchmarks.studies.sweeps.run_sweep` returns it.
        file: where to; None for standard output. Plain text where that is no terminal.
    """
    printer = Printer(file)
    rows = sweep_rows(sweep, outcomes)
    _print_head(printer, sweep)
    for task, own in _by_task(outcomes).items():
        none = next(one for one in own if one.cell.row == BASELINE)
        base = rows[task, sweep.base.digests[task]]
        work = none.cell.work
        for title, settings in sweep.tables.items():
            images = f"{work.wanted} samples on {work.images} images"
            printer.line(f"{task} · {title} · {images} · rule {work.task.rule}", style="bold")
            shown = [(_name(setting, sweep, task), rows[task, setting.digests[task]]) for setting in settings]
            if not any(row.is_base for _, row in shown):
                shown.insert(0, (_base_name(settings[0], base), base))
            printer.add(_metrics_table(printer, none, shown))
            printer.add(_changes_table(printer, shown))
        for line in otherwise_lines(own):
            printer.line(line)
    _print_notes(printer, sweep, rows)


def print_dry(sweep: Sweep, file: TextIO | None = None) -> None:
    """Print what would run, and how much of it is recorded.

    Args:
        sweep: what would run.
        file: where to; None for standard output.
    """
    printer = Printer(file)
    _print_head(printer, sweep)
    table = printer.table("task", "run", "images", "samples", "recorded")
    table.columns[1].justify = "left"
    for cell in sweep.plan.cells:
        name = f"{cell.row} ({_BASE})" if _is_base(sweep, cell.work.task.name, cell.folder.digest) else cell.row
        numbers = (cell.work.images, cell.work.wanted, recorded_samples(sweep.plan, cell))
        table.add_row(cell.work.task.name, name, *map(str, numbers))
    printer.add(table)
    printer.line("dry run: nothing was computed or written")


def _print_head(printer: Printer, sweep: Sweep) -> None:
    plan = sweep.plan
    printer.line(
        f"model {plan.source.name}, {plan.dtype} on {plan.device}, prompt {plan.config.prompt!r}", style="bold"
    )
    for part, fields in _base_config(sweep, plan).items():
        printer.line(f"{_BASE} {part}: {', '.join(f'{name}={value}' for name, value in fields.items())}")
    printer.line()


def _metrics_table(printer: Printer, none: Outcome, shown: Sequence[tuple[str, SweepRow]]) -> Any:
    units = none.scores.units
    table = printer.table("", "", "", "95 %", f"− {BASELINE}", "95 %", f"− {_BASE}", "95 %")
    table.columns[1].justify = "left"
    for name, row in [(BASELINE, None), *shown]:
        outcome = none if row is None else row.outcome
        for number, metric in enumerate(_metrics(none)):
            scores = outcome.scores
            cells = [
                value_text(metric, scores.metrics[metric], units),
                interval_text(metric, scores.intervals.get(metric), units),
            ]
            for comparison in () if row is None else (row.to_none, row.to_base):
                found = None if comparison is None else comparison.differences.get(metric)
                cells += [
                    "" if comparison is None else value_text(metric, found and found.value, units, sign=True),
                    interval_text(metric, found and found.interval, units, sign=True),
                ]
            table.add_row(name if number == 0 else "", LABELS.get(metric, metric.replace("_", " ")), *cells)
    return table


def _changes_table(printer: Printer, shown: Sequence[tuple[str, SweepRow]]) -> Any:
    heads = ("right→\nwrong", "wrong→\nright", "p (Holm)")
    table = printer.table("", f"changed\nfrom {BASELINE}", *heads, f"changed\nfrom {_BASE}", *heads)
    for name, row in shown:
        table.add_row(name, *_changes(row.to_none, row.p_none), *_changes(row.to_base, row.p_base))
    return table


def _changes(comparison: Comparison | None, p: float | None) -> list[str]:
    if comparison is None or p is None:
        return [""] * 4
    counts = (comparison.changed, comparison.right_to_wrong, comparison.wrong_to_right)
    mark = " *" if p < LEVEL else "  "
    return [*map(str, counts), (f"{p:.3f}" if p >= 0.001 else "<0.001") + mark]


def _print_notes(printer: Printer, sweep: Sweep, rows: Mapping[tuple[str, str], SweepRow]) -> None:
    names: dict[tuple[str, str], str] = {}
    for (task, digest), row in rows.items():
        names[task, digest] = f"{_BASE if row.is_base else row.outcome.cell.row} on {task}"
    for against, p_values in (
        (BASELINE, {key: row.p_none for key, row in rows.items()}),
        (f"the {_BASE}", {key: row.p_base for key, row in rows.items() if row.p_base is not None}),
    ):
        surviving = [names[key] for key, p in p_values.items() if p < LEVEL]
        printer.line(
            f"Differences to {against} that survive Holm's correction over all {len(p_values)} rows (*): "
            f"{'; '.join(surviving) or 'none'}."
        )
    printer.line(
        "p is McNemar's, of answers that turned right or wrong, and takes questions about one image for independent. "
        "The 95 % intervals of differences, by a bootstrap over images, do not, and are not corrected. Rates in %. "
        "Metrics that are not shown are in the records."
    )
    if warning := lab_warning(sweep.plan):
        printer.line(warning)
    printer.line()
    printer.path(f"records: {sweep.plan.config.output_dir}/")


def _metrics(none: Outcome) -> list[str]:
    there = none.scores.metrics
    deciding = next((names for names in _DECIDING if all(name in there for name in names[:2])), tuple(there))
    return [name for name in deciding if there.get(name) is not None][:_AT_MOST]


def _name(setting: Variation, sweep: Sweep, task: str) -> str:
    is_base = _is_base(sweep, task, setting.digests[task])
    return label(setting.fields) + (f" ({_BASE})" if is_base else "")


def _base_name(beside: Variation, base: SweepRow) -> str:
    """The base's own values of what a table varies, as far as its parts agree on them."""
    parts = by_part(base.outcome.cell.method, base.outcome.cell.config)
    fields = {}
    for name in beside.fields:
        owner, dot, own = name.rpartition(".")
        found = [value for part, config in parts.items() if not dot or part == owner for value in _values(config, own)]
        if not found or any(value != found[0] for value in found):
            return _BASE
        fields[name] = found[0]
    return f"{label(fields)} ({_BASE})"


def _values(config: Mapping[str, Any], name: str) -> list[Any]:
    """What a field holds; some, as `contrast`, are settings of a variant, which is a field itself."""
    nested = [value[name] for value in config.values() if isinstance(value, Mapping) and name in value]
    return [config[name]] if name in config else nested


def _is_base(sweep: Sweep, task: str, digest: str) -> bool:
    return digest == sweep.base.digests[task]


def _base_config(sweep: Sweep, plan: Plan) -> dict[str, dict[str, Any]]:
    cell = next(cell for cell in plan.cells if _is_base(sweep, cell.work.task.name, cell.folder.digest))
    return by_part(cell.method, cell.config)


def _by_task(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {}
    for one in outcomes:
        found.setdefault(one.cell.work.task.name, []).append(one)
    return found
