"""From records to scores: what a cell of the plan came out as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scr import SCRError

from ..asking.speed import summarize_timing
from ..records import RunRecord, SampleRecord
from ..tasks.base import Scores
from .cells import standing, title, wanted_records
from .plan import Cell, Plan
from .provenance import timestamp
from .rescoring import apply_scores, scored


class RunFailedError(SCRError, RuntimeError):
    """A run stopped on an error; what was answered before is kept, and its run.json says why it stopped."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What came out of one cell of the plan.

    Attributes:
        cell: the method and the task.
        run: its record; of a longer run that lay in the store, with that run's own limit and metrics.
        records: one per wanted sample, in the task's order.
        scores: of exactly these records.
        timed: id → process, of the samples that were answered, and so timed, by this command.
    """

    cell: Cell
    run: RunRecord
    records: Sequence[SampleRecord]
    scores: Scores
    timed: Mapping[str, int] = field(default_factory=dict)

    @property
    def from_store(self) -> bool:
        """Whether nothing had to be computed."""
        return not self.timed


def stored_outcome(plan: Plan, cell: Cell) -> Outcome | None:
    """The outcome as it lies in the store, None if something is missing."""
    run = cell.folder.read_run()
    limit = plan.config.limit
    if run is None or run.status != "finished":
        return None
    if run.limit is not None and (limit is None or limit > run.limit):
        return None
    records = wanted_records(cell, {record.id: record for record in cell.folder.samples()})
    if records is None or standing(plan, cell).again:
        return None
    return Outcome(cell=cell, run=run, records=records, scores=scored(cell.work.task, records))


def finish(cell: Cell, run: RunRecord, timed: Mapping[str, int], baseline: Outcome | None) -> Outcome:
    """Score what is recorded of a cell, and write its run record.

    Args:
        cell: the cell, all of whose questions were answered.
        run: its record, which is filled in.
        timed: as in the outcome.
        baseline: the outcome without a method; None for that one itself.

    Raises:
        RunFailedError: if answers are missing.
    """
    wanted = wanted_records(cell, {record.id: record for record in cell.folder.samples()})
    if wanted is None:  # every batch was answered
        advice = "Report this." if run.world_size == 1 else "Give an --output-dir that all processes share."
        raise RunFailedError(f"{title(cell)}: got answers missing after the last batch; expected all. {advice}")
    scores = scored(cell.work.task, wanted)
    apply_scores(run, scores, wanted)
    others = None
    if baseline is not None:
        # A ratio of times is one of the same process, which computed both.
        shared = {name for name, rank in timed.items() if baseline.timed.get(name) == rank}
        others = (baseline.records, shared)
    # Ratios that were measured are not lost where the same answers are only counted again.
    if timed or run.timing.get("samples") != len(wanted):
        measured = {name: reason for name, reason in run.reasons.items() if name.split(".")[0] != "timing"}
        run.timing, reasons = summarize_timing(wanted, timed, run.batch_size, others)
        run.reasons = {**measured, **reasons}
    run.status, run.finished = "finished", timestamp()
    cell.folder.write_run(run)
    return Outcome(cell=cell, run=run, records=wanted, scores=scores, timed=timed)
