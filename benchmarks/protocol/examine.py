"""What lies in a folder of a protocol, row by row, and all that is not as declared. Nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import scr
from scr import method_parts

from ..records import RunRecord, SampleRecord, first_images
from ..running.methods import recorded_config
from ..running.rescoring import scored
from ..studies.stored import StoredRun, runs_below
from ..tasks import load_task
from ..tasks.base import Scores
from .declaration import Protocol, Row, rows_of
from .stamp import Stamp


class Measured(NamedTuple):
    """A declared row that was run.

    Attributes:
        row: as declared.
        folder: its folder, below that of the protocol.
        run: its record.
        records: the samples that it is about.
        scores: of these samples, computed anew.
    """

    row: Row
    folder: Path
    run: RunRecord
    records: Sequence[SampleRecord]
    scores: Scores


class Examination(NamedTuple):
    """What lies there.

    Attributes:
        measured: the rows that were run to their end, in the order of the declaration.
        missing: rows that were not.
        lacking: sentences about what is not complete.
        wrong: sentences about what is not what was declared, or not what its samples say.
    """

    measured: list[Measured]
    missing: list[Row]
    lacking: list[str]
    wrong: list[str]

    def baseline(self, part: str, task: str) -> Measured | None:
        """The model as it is, of a part on a task; None where it was not run."""
        found = (one for one in self.measured if (one.row.part, one.row.task) == (part, task) and one.row.is_baseline)
        return next(found, None)


def examine(folder: Path, protocol: Protocol, stamp: Stamp) -> Examination:
    """Look at every run of a folder.

    Args:
        folder: what `run` or `render` wrote.
        protocol: what it is of.
        stamp: what it says of itself.

    Raises:
        ConfigError: if there is no such folder.
    """
    rows = [row for part in protocol.parts for row in rows_of(part)]
    lacking: list[str] = []
    wrong: list[str] = []
    found: dict[int, Measured] = {}
    for one in runs_below(folder):
        where = one.folder.path.relative_to(folder)
        if one.record is None or one.status != "finished":
            lacking.append(f"{where} is not finished: got {one.problem or one.status}; expected a finished run.")
            continue
        places = [number for number, row in enumerate(rows) if _is_of(one.record, row)]
        if not places:
            wrong.append(
                f"{where} is no row of {protocol.name}: got {_described(one.record)}; expected a declared row. "
                "Other rows belong into another folder."
            )
            continue
        records = first_images(one.samples, one.record.limit)
        try:
            scores = scored(load_task(one.record.task), records)
        except ValueError as error:
            wrong.append(f"{where} cannot be graded: {error}")
            continue
        # Equal rows of two parts share a folder, so that all of these places have been filled, or none.
        if (twice := found.get(places[0])) is not None:
            wrong.append(
                f"row {_described(one.record)} was run twice: got {twice.folder} and {where}; expected one. "
                "Take the other away."
            )
            continue
        wrong += [f"{where}: {said}" for said in _wrong(one, rows[places[0]], protocol, scores)]
        lacking += [f"{where}: {said}" for said in _lacking(records, rows[places[0]])]
        for number in places:
            found[number] = Measured(rows[number], where, one.record, records, scores)
    measured = [found[number] for number in sorted(found)]
    missing = [row for number, row in enumerate(rows) if number not in found]
    return Examination(measured, missing, lacking, [*wrong, *_differing(measured, stamp)])


def _is_of(run: RunRecord, row: Row) -> bool:
    recorded = (run.task, run.method, run.adapter is not None, run.prompt, run.generation)
    return recorded == (row.task, row.method, row.adapted, row.prompt, row.generation)


def _described(run: RunRecord) -> str:
    adapter = f", adapter {run.adapter}" if run.adapter else ""
    return f"{run.task}, {run.method}{adapter}, prompt {run.prompt}, {run.generation}"


def _wrong(one: StoredRun, row: Row, protocol: Protocol, scores: Scores) -> Iterator[str]:
    """What of a run is not as declared; expected and got, a sentence each."""
    run = one.record
    if run is None:
        return
    task = load_task(run.task)
    pairs: list[tuple[str, Any, Any]] = [
        ("limit", run.limit, row.limit),
        ("seed", run.seed, protocol.seed),
        ("settings of the method", _chosen(run.method, run.config_given), {}),
        ("version of the task", run.task_version, task.version),
        ("rule", run.rule, task.rule),
        ("metrics", _rounded(run.metrics), _rounded(scores.metrics)),
    ]
    defaults = {part: scr.get_method(part).configure({}).to_dict() for part in method_parts(run.method)}
    recorded, own = (_chosen(run.method, of) for of in (run.config, recorded_config(run.method, defaults)))
    # A field that is newer than the run is none of it; what is None the family decides.
    fixed = {name: value for name, value in own.items() if value is not None and name in recorded}
    pairs.append(("configuration", {name: recorded[name] for name in fixed}, fixed))
    for what, got, wanted in pairs:
        if got != wanted:
            todo = "`benchmarks.run --rescore` counts the samples again." if what == "metrics" else "Run the row again."
            yield f"another {what}: got {_short(got, wanted)}; expected {_short(wanted, got)}. {todo}"


def _chosen(method: str, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded fields of a method, "PART.FIELD" of several parts, without those that the tokenizer filled in."""
    parts = method_parts(method)
    by_part = {f"{part}.": recorded.get(part, {}) for part in parts} if len(parts) > 1 else {"": recorded}
    kinds = [scr.get_method(part).config_class for part in parts]
    filled = {
        f"{start}{name}"
        for start, kind in zip(by_part, kinds, strict=False)  # the unpatched model has no kind
        for name in (*kind.answer_tokens, *kind.phrases)
    }
    flat = {f"{start}{name}": value for start, fields in by_part.items() for name, value in fields.items()}
    return {name: value for name, value in flat.items() if name not in filled}


def _lacking(records: Sequence[SampleRecord], row: Row) -> Iterator[str]:
    images, failed = len({one.image for one in records}), sum(one.error is not None for one in records)
    if images != row.limit:
        yield f"too few images: got {images}; expected {row.limit}. Give the whole data set."
    if failed:
        yield f"samples that failed: got {failed} of {len(records)}; expected none. Run the row again."


def _differing(measured: Sequence[Measured], stamp: Stamp) -> Iterator[str]:
    """What rows must share to be compared, and with what the folder says of itself."""
    for what in ("model", "revision"):
        own = str(getattr(stamp, what))
        if others := {str(getattr(one.run, what)) for one in measured} - {own}:
            yield f"rows of another {what}: got {', '.join(sorted(others))}; expected {own}, as stamped."
    adapters = {str(one.run.adapter) for one in measured if one.row.adapted}
    if others := adapters - {str(stamp.adapter)}:
        names = ", ".join(sorted(others))
        yield f"rows of another adapter: got {names}; expected {stamp.adapter}, as stamped. Use a folder for each."
    if len(values := {one.run.dtype for one in measured}) > 1:
        yield f"rows of several dtypes: got {', '.join(sorted(values))}; expected one. Use a folder for each."
    for task in dict.fromkeys(one.row.task for one in measured):
        if len(values := {one.run.data_sha256[:12] for one in measured if one.row.task == task}) > 1:
            yield f"{task} was asked of several data sets: got {', '.join(sorted(values))}; expected one."


def _rounded(metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    """Without the digits in which machines differ."""
    return {name: None if value is None else round(value, 9) for name, value in metrics.items()}


def _short(value: Any, other: Any) -> Any:
    """A table without what another has too."""
    if isinstance(value, dict) and isinstance(other, dict):
        return {name: one for name, one in value.items() if name not in other or other[name] != one}
    return value
