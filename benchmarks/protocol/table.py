"""What a folder of a protocol measured, for people: a page to hand in, and what `check` prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ..printing.console import LABELS, Printer, interval_text, value_text
from ..tasks import load_task
from .anchors import Compared, compare_baseline
from .declaration import Protocol
from .examine import Examination, Measured
from .stamp import Stamp


def remarks(protocol: Protocol, stamp: Stamp) -> list[str]:
    """What has to be known before any number is read; nothing where what was declared ran the whole protocol."""
    said = []
    if stamp.rehearsal:
        said.append("A REHEARSAL: a few questions, cut short. It shows that everything runs, and measures nothing.")
    if stamp.is_stand_in(protocol):
        shape = ", ".join(f"{name} {value}" for name, value in stamp.shape.items())
        said.append(
            f"A STAND-IN: {stamp.model} ({shape}) in place of {protocol.model}. Published numbers say nothing of it."
        )
    if stamp.has_stand_in_adapter(protocol):
        said.append(
            f"A STAND-IN: the adapter {stamp.adapter} in place of {protocol.adapter}, of which it says nothing."
        )
    return said


def verdicts(found: Examination, protocol: Protocol, stamp: Stamp) -> tuple[list[str], bool]:
    """What is to be said of the baseline beside published numbers, and whether it is off or could not be compared."""
    if stamp.rehearsal or stamp.is_stand_in(protocol):
        return ["The baseline is not compared: nothing was published of what was run."], False
    if not protocol.anchors:
        return [f"The baseline is unchecked: {protocol.without_anchors}. Take no gain over it for granted."], False
    compared = compare_baseline(found, protocol)
    said = [_verdict(one) for one in compared]
    off = [one for one in compared if one.is_off]
    for name in dict.fromkeys(one.anchor.tasks for one in off):
        said.append(f"Usual causes, {name}: {'; '.join(protocol.causes_of(name)) or 'none are listed'}.")
    if off:
        said.append("Find out why before you believe a gain over this baseline.")
    return said, bool(off) or all(one.value is None for one in compared)


def as_markdown(protocol: Protocol, stamp: Stamp, found: Examination) -> str:
    """The page: what was run, the baseline beside published numbers, and a table per part and task."""
    lines = [f"# {protocol.name}, version {protocol.version}", "", f"{protocol.summary}.", ""]
    adapter = f" Adapter: {stamp.adapter}." if stamp.adapter else ""
    declared = f"Declared as {stamp.sha256[:12]} on {stamp.started}."
    lines += [f"Model: {stamp.model} at {stamp.revision}.{adapter} {declared}", ""]
    for said in remarks(protocol, stamp):
        lines += [f"**{said}**", ""]
    lines += ["## Baseline", "", *(f"* {said}" for said in verdicts(found, protocol, stamp)[0]), ""]
    for part, task in dict.fromkeys((one.row.part, one.row.task) for one in found.measured):
        own = [one for one in found.measured if (one.row.part, one.row.task) == (part, task)]
        lines += [f"## {part}: {task}", "", *_table(own, found.baseline(part, task)), ""]
    if found.missing or found.lacking:
        gaps = [f"not run: {one.part}, {one.task}, {_name(one.method, one.adapted)}" for one in found.missing]
        lines += ["## What is not there", "", *(f"* {said}" for said in (*gaps, *found.lacking)), ""]
    lines.append(
        "Rates in %, with 95 % intervals; Δ is the difference to the unmodified model on the same samples, by a "
        "bootstrap over images."
    )
    return "\n".join(lines) + "\n"


def print_examination(protocol: Protocol, stamp: Stamp, found: Examination, wrong: Sequence[str]) -> bool:
    """Print what `check` found.

    Args:
        protocol: what was run.
        stamp: the folder's stamp.
        found: what lies in the folder.
        wrong: further sentences about what is not as it should be.

    Returns:
        Whether all of it is there as declared, and the baseline where others have it.
    """
    printer = Printer(None)
    printer.line(f"{protocol.name}, version {protocol.version}: {stamp.model} at {stamp.revision}", style="bold")
    for said in remarks(protocol, stamp):
        printer.line(said, style="bold")
    rows = len(found.measured) + len(found.missing)
    printer.line(f"{len(found.measured)} of {rows} rows were run to their end")
    for part in protocol.parts:
        missing = [f"{one.task}: {_name(one.method, one.adapted)}" for one in found.missing if one.part == part.name]
        if missing:
            printer.line(f"  not run of {part.name}: {', '.join(missing)}")
    for said in found.lacking:
        printer.line(f"  incomplete: {said}")
    for said in (*found.wrong, *wrong):
        printer.line(f"  wrong: {said}")
    for said in _warnings(found.measured):
        printer.line(f"  {said}")
    said_of_it, off = verdicts(found, protocol, stamp)
    for said in said_of_it:
        printer.line(said)
    return not (off or found.missing or found.lacking or found.wrong or wrong)


def _verdict(one: Compared) -> str:
    anchor = one.anchor
    what = f"{anchor.part}, {anchor.tasks}, {LABELS.get(anchor.metric, anchor.metric.replace('_', ' '))}"
    numbers = [entry["value"] for entry in anchor.published]
    low, high = (value_text(anchor.metric, bound, {}) for bound in (min(numbers), max(numbers)))
    span = low if low == high else f"{low}–{high}"
    source = f"nearest: {one.nearest['source']}, {one.nearest['protocol']}"
    if one.value is None or one.off is None:
        return f"{what}: not measured; published {span}"
    measured = f"{what}: {value_text(anchor.metric, one.value, {})}; published {span} ({source})"
    if not one.is_off:
        return f"{measured}: as published"
    return (
        f"{measured}: your baseline is off by {value_text(anchor.metric, one.off, {}, sign=True)} points, where "
        f"{value_text(anchor.metric, anchor.tolerance, {})} were declared as tolerable"
    )


def _warnings(measured: Iterable[Measured]) -> list[str]:
    """One sentence for all rows whose margins say little."""
    audits = [(one.row, one.run.readout) for one in measured if one.run.readout is not None]
    warned = [(row, audit["warning"]) for row, audit in audits if audit["warning"] is not None]
    if not warned:
        return []
    row, warning = warned[0]
    first = f"{row.part}, {row.task}, {_name(row.method, row.adapted)}"
    return [f"{len(warned)} of {len(audits)} yes/no rows, the first of them {first}: {warning}"]


def _table(rows: Sequence[Measured], baseline: Measured | None) -> Iterator[str]:
    names = [name for name in rows[0].scores.metrics if any(one.scores.metrics[name] is not None for one in rows)]
    yield f"| | images | {' | '.join(LABELS.get(name, name.replace('_', ' ')) for name in names)} |"
    yield f"|---|--:|{'--:|' * len(names)}"
    for one in rows:
        images = len({record.image for record in one.records})
        cells = [f"`{_name(one.row.method, one.row.adapted)}`", str(images)]
        cells += [_cell(name, one) for name in names]
        yield f"| {' | '.join(cells)} |"
        if baseline is not None and one is not baseline:
            found = load_task(one.row.task).compare(baseline.records, one.records).differences
            units = one.scores.units
            differences = [
                "–"
                if name not in found
                else f"{value_text(name, found[name].value, units, sign=True)} "
                f"({interval_text(name, found[name].interval, units, sign=True)})"
                for name in names
            ]
            yield f"| Δ | | {' | '.join(differences)} |"


def _cell(name: str, one: Measured) -> str:
    value = value_text(name, one.scores.metrics[name], one.scores.units)
    interval = interval_text(name, one.scores.intervals.get(name), one.scores.units)
    return f"{value} ({interval})" if interval else value


def _name(method: str, adapted: bool) -> str:
    return f"adapter, {method}" if adapted else method
