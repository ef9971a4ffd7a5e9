"""What a command prints: the closing table of a run, and the plan of a dry one. It reads well at 100 columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from rich.table import Table

from scr import fields_by_part
from scr.checkpoints.digests import SETTINGS_FILE
from scr.command.progress import duration

from ..asking.readout import readout_in_words
from ..records import computed_otherwise
from ..running.cells import recorded_samples
from ..running.methods import BASELINE, by_part, settings_used
from ..running.outcomes import Outcome
from ..running.plan import Cell, Plan
from ..stats import POWER, Comparison, detectable_difference, holm
from .console import LABELS, WIDTH, Printer, interval_text, value_text

LAB_LINE = "lab numbers: a synthetic world; not comparable with a paper's"
LAB_MODEL_LINE = (
    "a lab model on other pictures than the lab's: it has seen drawings alone, so what it says of photos is nonsense "
    "and these numbers mean nothing"
)
_NAME_WIDTH, _COLUMN_WIDTH = 16, 12  # of a method's name, and of an interval such as "-20.0…+56.7" with its gap
_COUNTS_BESIDE_TIMES = 5
FEW = 200
"""Below so many samples of a task, the table says what a comparison could have found."""
_MEASURED = {"margin": "margin", "timing": "times", "timing.ratio": "×"}  # reasons that a run has beside its scores
_COUNT_LABELS = {"unparsed_strict": "unparsed\n(strict)"}


def print_report(plan: Plan, outcomes: Sequence[Outcome], file: TextIO | None = None) -> None:
    """Print the closing table: what was run, then task by task the metrics, differences, counts and times.

    Args:
        plan: what was run.
        outcomes: what came out, as `benchmarks.running.runner.run` returns it.
        file: where to; None for standard output. Plain text where that is no terminal.
    """
    printer = Printer(file)
    _print_head(printer, plan)
    print_outcomes(outcomes, file)
    printer.line(
        "Rates in %, below them 95 % intervals: of shares of answers Wilson's, of all else, differences above all, "
        "by a bootstrap over images. That of the difference decides: McNemar's p and Wilson's interval take questions "
        "about one image for independent. A shifted threshold can buy HR and accuracy, but not AUC, the ranking by "
        f"the margin of yes over no. Times are medians over batches of {plan.config.batch_size}, "
        f"per sample; × is the ratio to {BASELINE}, timed in the same process."
    )
    if warning := lab_warning(plan):
        printer.line(warning)
    printer.line()
    printer.path(f"records: {plan.config.output_dir}/")
    for outcome in outcomes:
        origin = "from the store" if outcome.from_store else f"{len(outcome.timed)} new answers"
        printer.path(f"  {outcome.cell.folder.path.relative_to(plan.config.output_dir)}  ({origin})")


def print_outcomes(outcomes: Sequence[Outcome], file: TextIO | None = None) -> None:
    """Print the tables alone, task by task; see `print_report`."""
    printer = Printer(file)
    for name in dict.fromkeys(outcome.cell.work.task.name for outcome in outcomes):
        _print_task(printer, [outcome for outcome in outcomes if outcome.cell.work.task.name == name])


def lab_warning(plan: Plan) -> str | None:
    """What the lab's pictures, or a lab model on others, make of the numbers; None without either."""
    if plan.config.data_dir is None:
        return LAB_LINE  # no other pictures come by themselves
    return LAB_MODEL_LINE if plan.source.is_lab else None


def print_plan(
    plan: Plan, file: TextIO | None = None, *, memory: str | None = None, seconds: Mapping[str, float] | None = None
) -> None:
    """Print what would run, and what of it is recorded already.

    Args:
        plan: what would run.
        file: where to; None for standard output.
        memory: what it takes, in words; None leaves it out.
        seconds: each cell's folder → the time that it takes; None leaves it out.
    """
    printer = Printer(file)
    _print_head(printer, plan)
    times = () if seconds is None else ("time",)
    table = printer.table("task", "method", "images", "samples", "batches", "recorded", "state", *times)
    for cell in plan.cells:
        recorded = 0 if plan.config.overwrite else recorded_samples(plan, cell)
        batches = sum(1 for _ in cell.work.batches())
        numbers = (cell.work.images, cell.work.wanted, batches, recorded)
        time = () if seconds is None else (duration(seconds[str(cell.folder.path)]),)
        table.add_row(cell.work.task.name, cell.row, *map(str, numbers), _state(plan, cell, recorded), *time)
    printer.add(table)
    if seconds is not None:
        printer.line(f"time: about {duration(sum(seconds.values()))} in one process, by a few questions of each")
    if memory is not None:
        printer.line(f"memory: {memory}")
    printer.line("folders:")
    for cell in plan.cells:
        printer.path(f"  {cell.folder.path}")
    printer.line(f"dry run: nothing was {'computed or written' if seconds is None else 'recorded'}")


def _print_head(printer: Printer, plan: Plan) -> None:
    config = plan.config
    revision = f" ({plan.source.revision[:19]})" if plan.source.revision else ""
    printer.line(
        f"model {plan.source.name}{revision}, {plan.dtype} on {plan.device}, prompt {config.prompt!r}", style="bold"
    )
    # A method has one configuration, alone and in every combination.
    parts = {part: fields for cell in plan.cells for part, fields in by_part(cell.method, cell.config).items()}
    command = fields_by_part(list(parts), config.method_args)
    for part, fields in parts.items():
        printer.line(f"{part}: {_fields(fields)}")
        brought = settings_used(part, plan.source, command[part])
        if brought:
            printer.line(f"  of these {', '.join(brought)} from {SETTINGS_FILE} beside the checkpoint")
    printer.line()


def _print_task(printer: Printer, outcomes: Sequence[Outcome]) -> None:
    work = outcomes[0].cell.work
    baseline = next(outcome for outcome in outcomes if outcome.cell.row == BASELINE)
    compared = {
        outcome.cell.row: work.task.compare(baseline.records, outcome.records)
        for outcome in outcomes
        if outcome is not baseline
    }
    printer.line(
        f"{work.task.name} · {work.wanted} samples on {work.images} images · rule {work.task.rule}", style="bold"
    )
    # Of MME's 73 metrics most are undefined where a few of its tasks were run; the notes say why.
    names = [name for name in baseline.scores.metrics if any(one.scores.metrics[name] is not None for one in outcomes)]
    at_once = max(1, (printer.width - _NAME_WIDTH) // _COLUMN_WIDTH)
    for start in range(0, len(names), at_once):
        printer.add(_metrics_table(printer, outcomes, compared, names[start : start + at_once]))
    counts = [name for name in baseline.scores.counts if not _is_silent(name, outcomes)]
    if len(counts) <= _COUNTS_BESIDE_TIMES and printer.width >= WIDTH:
        printer.add(_counts_table(printer, outcomes, compared, counts))
    else:
        printer.add(_counts_table(printer, outcomes, {}, counts, timing=False))
        printer.add(_counts_table(printer, outcomes, compared, []))
    for line in _notes(outcomes, compared):
        printer.line(line)


def _metrics_table(
    printer: Printer, outcomes: Iterable[Outcome], compared: Mapping[str, Comparison], names: Sequence[str]
) -> Table:
    table = printer.table("", *(LABELS.get(name, name.replace("_", " ")) for name in names))
    for outcome in outcomes:
        scores, units = outcome.scores, outcome.scores.units
        table.add_row(_short(outcome.cell.row), *(value_text(name, scores.metrics[name], units) for name in names))
        table.add_row("", *(interval_text(name, scores.intervals.get(name), units) for name in names), style="dim")
        if outcome.cell.row not in compared:
            continue
        found = [(name, compared[outcome.cell.row].differences.get(name)) for name in names]
        values = [value_text(name, None if one is None else one.value, units, sign=True) for name, one in found]
        bounds = [interval_text(name, None if one is None else one.interval, units, sign=True) for name, one in found]
        table.add_row(f"  − {BASELINE}", *values)
        table.add_row("", *bounds, style="dim")
    return table


def _counts_table(
    printer: Printer,
    outcomes: Sequence[Outcome],
    compared: Mapping[str, Comparison],
    counts: Sequence[str],
    *,
    timing: bool = True,
) -> Table:
    p_values = dict(zip(compared, holm([one.mcnemar_p for one in compared.values()]), strict=True))
    p_label = "McNemar\np" if len(compared) < 2 else "McNemar\np (Holm)"
    changes = ("changed", "right→\nwrong", "wrong→\nright", p_label) if compared else ()
    ratio = ("×",) if compared else ()
    times = ("prefill\nms", *ratio, "ms per\ntoken", *ratio) if timing else ()
    table = printer.table("", *(_COUNT_LABELS.get(name, name.replace("_", "\n")) for name in counts), *changes, *times)
    for outcome in outcomes:
        cells = [str(outcome.scores.counts[name]) for name in counts]
        comparison = compared.get(outcome.cell.row)
        if compared:
            cells += [""] * 4 if comparison is None else _changes(comparison, p_values[outcome.cell.row])
        if timing:
            for name in ("prefill_ms", "ms_per_token"):
                cells.append(_decimal(outcome.run.timing.get(name), 2))
                if compared:
                    one = outcome.run.timing.get(f"{name.removesuffix('_ms')}_ratio")
                    cells.append("" if comparison is None else _decimal(one, 2))
        table.add_row(_short(outcome.cell.row), *cells)
    return table


def _changes(comparison: Comparison, p: float) -> list[str]:
    numbers = (comparison.changed, comparison.right_to_wrong, comparison.wrong_to_right)
    return [*map(str, numbers), f"{p:.3f}" if p >= 0.001 else "<0.001"]


def _notes(outcomes: Sequence[Outcome], compared: Mapping[str, Comparison]) -> list[str]:
    """Why something is missing from the tables."""
    notes: dict[str, None] = {}
    for outcome in outcomes:
        failed = [record for record in outcome.records if record.error is not None]
        if failed:
            notes[
                f"  {outcome.cell.row}: {len(failed)} of {len(outcome.records)} samples failed, and the same command "
                f"asks them again; {failed[0].id}: {failed[0].error}"
            ] = None
        # A run's own reasons are about all of its samples; scores' are about those shown.
        measured = {name: reason for name, reason in outcome.run.reasons.items() if name in _MEASURED}
        lacking: dict[str, list[str]] = {}
        for name, reason in {**outcome.scores.reasons, **measured}.items():
            label = _MEASURED.get(name) or LABELS.get(name, name.replace("_", " "))
            lacking.setdefault(reason, []).append(label)
        for reason, labels in lacking.items():
            notes[f"  {outcome.cell.row}, no {', '.join(labels)}: {reason}"] = None
        audit = outcome.run.readout
        if audit is not None and audit["answers"]:
            notes[f"  {outcome.cell.row}, {audit['warning'] or readout_in_words(audit)}"] = None
        spread = _spread(outcome.run.timing)
        if spread:
            notes[f"  {outcome.cell.row}, {spread}"] = None
    notes |= dict.fromkeys(otherwise_lines(outcomes))
    for method, comparison in compared.items():
        if comparison.unpaired:
            notes[f"  {method}: {comparison.unpaired} samples have no partner and are not compared"] = None
        if comparison.n < FEW:
            notes[f"  {method}, {_detectable(comparison)}"] = None
    if len(compared) > 1:
        notes[f"  p (Holm): adjusted for the {len(compared)} methods compared on this task"] = None
    return [*notes, ""] if notes else []


def otherwise_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """What is to be said of outcomes of one task that were not computed as their baseline, which the store may hold."""
    baseline = next(outcome for outcome in outcomes if outcome.cell.row == BASELINE)
    told = [(outcome.cell.row, computed_otherwise(outcome.run, baseline.run)) for outcome in outcomes]
    return [f"  {row}, not computed as {BASELINE}: {how} (a near-tie can flip)" for row, how in told if how]


def _spread(timing: Mapping[str, Any]) -> str:
    """How far the batches of a run that was timed beside its baseline are apart."""
    spans = {
        what: timing.get(f"{name}_ratio_spread") for what, name in (("prefill", "prefill"), ("token", "ms_per_token"))
    }
    told = [f"{what} × {low:.2f}–{high:.2f}" for what, (low, high) in ((w, s) for w, s in spans.items() if s)]
    return f"middle half of {timing.get('batches')} batches: {', '.join(told)}" if told else ""


def _detectable(comparison: Comparison) -> str:
    """What a small comparison could have found."""
    turned = comparison.right_to_wrong + comparison.wrong_to_right
    least = detectable_difference(comparison.n, turned / comparison.n)
    few = f"few samples: with {comparison.n}, of which {turned} turned right or wrong,"
    if least is None:
        return f"{few} no difference could have been found"
    return (
        f"{few} a difference below {100 * least:.1f} points in right answers would be missed more often than "
        f"{round(100 * (1 - POWER))} times in 100"
    )


def _is_silent(name: str, outcomes: Sequence[Outcome]) -> bool:
    """Whether a count says nothing: the title has the number of samples, `errors` that of failures, and what never
    happened need not be shown.
    """
    never = not any(outcome.scores.counts[name] for outcome in outcomes)
    return name in ("n", "captions", "failed") or (name in ("unparsed", "errors") and never)


def _state(plan: Plan, cell: Cell, recorded: int) -> str:
    if recorded == cell.work.wanted:
        return "done"
    if plan.config.overwrite:
        return "to run, discarding records"
    return "to run" if recorded == 0 else "to go on"


def _short(method: str) -> str:
    """A method's name, on several lines where it would take the numbers' room."""
    return method if len(method) < _NAME_WIDTH else method.replace("+", "+\n")


def _fields(config: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in config.items())


def _decimal(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
