"""Scores into run records, and run records rebuilt from their samples: no model is needed for either."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..asking.readout import audit_readout
from ..records import SCHEMA, RunRecord, SampleRecord, first_images
from ..store import RunFolder, find_runs
from ..tasks import UnknownTaskError, load_task
from ..tasks.base import Scores, Task

# Reasons with these names belong to the measurement, which scoring cannot repeat.
_MEASURED = ("margin", "timing")


@dataclass(frozen=True)
class Rescored:
    """What became of one folder.

    Attributes:
        folder: the run's folder.
        changed: names of the metrics whose value is another one now.
        problem: why it could not be scored again; None where it was.
    """

    folder: RunFolder
    changed: tuple[str, ...] = ()
    problem: str | None = None


def apply_scores(run: RunRecord, scores: Scores, records: Sequence[SampleRecord]) -> None:
    """Put scores into a run's record, in place of what was there, and the audit of what its margins are read from.

    Args:
        run: the record; the ids that its margins read are in it.
        scores: the scores.
        records: what they are of.
    """
    run.metrics = dict(scores.metrics)
    run.counts = dict(scores.counts)
    run.intervals = {name: list(interval) for name, interval in scores.intervals.items()}
    run.units = dict(scores.units)
    measured = {name: reason for name, reason in run.reasons.items() if name.split(".")[0] in _MEASURED}
    run.reasons = {**measured, **scores.reasons}
    if run.readout is not None:
        run.readout = audit_readout(records, run.readout["yes"], run.readout["no"])


def scored(task: Task, records: Sequence[SampleRecord]) -> Scores:
    """What a task scores, and the count `errors`: how many samples failed."""
    scores = task.score(records)
    errors = sum(record.error is not None for record in records)
    return dataclasses.replace(scores, counts={**scores.counts, "errors": errors})


def grade_samples(folder: RunFolder, task: Task) -> None:
    """Grade all samples of a folder again, by the task's rule, from outputs and targets; the caller holds its lock.

    Nothing is written where every grade is as it was. A sample that failed with an error has no grade.

    Raises:
        RecordError: for a sample that cannot be read, or whose target is not one of the task's.
        FolderInUseError: where another process still writes samples.
    """
    before = folder.samples()
    graded = [
        record
        if record.error is not None
        else dataclasses.replace(record, **task.grade(record.target, record.output)._asdict())
        for record in before
    ]
    if graded != before:
        folder.replace_samples(graded)


def grade_old_samples(folder: RunFolder, task: Task, run: RunRecord | None) -> None:
    """`grade_samples` where the run that lies there was recorded in an earlier schema."""
    if run is not None and run.schema != SCHEMA:
        grade_samples(folder, task)


def rescore(root: Path) -> list[Rescored]:
    """Grade the samples of every run below a folder again, and rebuild its metrics from them.

    Records of an earlier schema are of the present one after it. A run keeps its status and its limit: records beyond
    the limit, which an interrupted longer run leaves, stay out.

    Args:
        root: an output directory.
    """
    return [_rescore(folder) for folder in find_runs(root)]


def _rescore(folder: RunFolder) -> Rescored:
    try:
        with folder.lock():
            run = folder.read_run()
            if run is None:
                return Rescored(folder, problem="no run.json; the command that made the run writes it again")
            task = load_task(run.task)
            before = run.metrics
            grade_samples(folder, task)
            records = first_images(folder.samples(), run.limit)
            apply_scores(run, scored(task, records), records)
            run.rule, run.ability, run.schema = task.rule, task.ability, SCHEMA
            folder.write_run(run)
    except (ValueError, UnknownTaskError, RuntimeError) as error:
        return Rescored(folder, problem=str(error))
    names = dict.fromkeys([*before, *run.metrics])
    return Rescored(folder, tuple(name for name in names if before.get(name) != run.metrics.get(name)))
