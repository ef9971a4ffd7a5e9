"""Run a plan: batch after batch into the records, from where the last run stopped.

Several processes take whole batches in turn, each into a file of its own. The first merges them, scores and writes
`run.json`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import torch

import scr
from scr import SCRError

from ..asking.answering import Answer, Answerer, Question, RefusedError
from ..asking.diagnostics import Diagnoser
from ..asking.models import LoadedModel, load_model
from ..asking.speed import summarize_timing
from ..records import RunRecord, SampleRecord
from ..tasks.base import Sample, Scores
from .cells import (
    check_diagnosed,
    mapped_in_words,
    missing_batches,
    new_run,
    question,
    resuming,
    standing,
    title,
    turns,
    wanted_records,
)
from .methods import BASELINE, by_part, patched
from .plan import STOP, Cell, Plan, RunConfig, build_plan
from .progress import Progress
from .prompts import YES_NO
from .provenance import timestamp
from .ranks import FailedElsewhereError, Ranks, RanksError
from .rescoring import apply_scores, grade_old_samples, scored


class RunFailedError(SCRError, RuntimeError):
    """A run stopped on an error; what was answered before is kept, and its run.json says why it stopped."""


class _BatchError(Exception):
    """A batch that failed; the message says how and which one, the cause is what was raised."""


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


def run(config: RunConfig, report: Callable[[str], None] = lambda line: None) -> list[Outcome]:
    """Run a command: what is not recorded yet is computed, the rest taken from the store.

    Args:
        config: the command.
        report: is told, line by line, what happens.

    Returns:
        One outcome per task and method, in the order of the plan.

    Raises:
        RunFailedError: if a batch fails; the run's record says where and why.
        SCRError, UnknownTaskError, ...: as `benchmarks.running.plan.build_plan`.
    """
    return run_plan(build_plan(config), report)


def run_plan(
    plan: Plan,
    report: Callable[[str], None] = lambda line: None,
    *,
    ranks: Ranks | None = None,
    device_map: str | dict[str, Any] | None = None,
) -> list[Outcome]:
    """As `run`, of a plan that was built before.

    Args:
        plan: what to run; the same in all processes.
        report: see `run`; called by the first process alone.
        ranks: the processes that share the work; None for this one alone.
        device_map: see `benchmarks.asking.models.load_model`.

    Returns:
        As `run`, in the first process; nothing in the others.

    Raises:
        FailedElsewhereError: in those of several processes that did not fail themselves, the first excepted.
        RanksError: if another process gives no sign of life.
    """
    # Trained models underflow a lot, and a CPU computes with denormals many times slower. No answer depends on them.
    torch.set_flush_denormal(True)
    ranks = ranks if ranks is not None else Ranks()
    if ranks.world.first and not plan.config.overwrite:
        for cell in plan.cells:
            check_diagnosed(cell, plan.config.diagnostics)
    session = _Session(plan, report, ranks, device_map)
    outcomes: list[Outcome] = []
    for cell in plan.cells:
        if ranks.world.first:
            same = (one for one in outcomes if one.cell.plan is cell.plan and one.cell.row == BASELINE)
            outcomes.append(session.run_cell(cell, next(same, None)))
        else:
            session.help_with(cell)
    return outcomes


class _Session:
    """One process's work: the model is loaded when the first answer is missing."""

    def __init__(
        self, plan: Plan, report: Callable[[str], None], ranks: Ranks, device_map: str | dict[str, Any] | None
    ) -> None:
        self._plan, self._config, self._report = plan, plan.config, report
        self._ranks, self._world, self._device_map = ranks, ranks.world, device_map
        self._warm: set[tuple[str, str]] = set()

    @functools.cached_property
    def _loaded(self) -> LoadedModel:
        if self._world.first:
            self._report(f"loading {self._plan.source.name} on {self._plan.device} in {self._plan.dtype}")
        loaded = load_model(
            self._plan.source,
            dtype=self._plan.dtype,
            device=str(self._plan.device),
            attn_implementation=self._config.attn_implementation,
            device_map=self._device_map,
        )
        self._ranks.step()
        return loaded

    @functools.cached_property
    def _answerer(self) -> Answerer:
        return Answerer(self._loaded)

    def run_cell(self, cell: Cell, baseline: Outcome | None) -> Outcome:
        """The first process's part of a cell."""
        if not self._config.overwrite:
            stored = self._stored(cell)
            if stored is not None:
                self._report(f"{title(cell)}: taken from {cell.folder.path}")
                self._ranks.share([])
                return stored
        with cell.folder.lock():
            if self._config.overwrite:
                cell.folder.clear()
            before, found = cell.folder.read_run(), standing(self._plan, cell)
            cell.folder.merge((sample.id for sample in cell.plan.samples), without=found.again)
            grade_old_samples(cell.folder, cell.plan.task, before)
            there = found.answered
            batches = missing_batches(cell, there)
            if batches and (there or found.again):
                self._report(resuming(cell, found, before))
            run = new_run(self._plan, cell, before, self._world.size)
            self._ranks.share(batches)
            if batches:
                self._answer(cell, batches, there, run)
            outcome = self._finish(cell, run, turns(cell, batches, there, self._world.size), baseline)
            if batches:
                self._ranks.meet()
            return outcome

    def help_with(self, cell: Cell) -> None:
        """Any other process's part."""
        batches = self._ranks.share()
        if batches:
            self._answer(cell, batches, cell.folder.ids(), None)
            self._ranks.meet()
            self._ranks.step()  # the first one may have failed with the scores

    def _stored(self, cell: Cell) -> Outcome | None:
        """The outcome as it lies in the store, None if something is missing."""
        run = cell.folder.read_run()
        limit = self._config.limit
        if run is None or run.status != "finished":
            return None
        if run.limit is not None and (limit is None or limit > run.limit):
            return None
        records = wanted_records(cell, {record.id: record for record in cell.folder.samples()})
        if records is None or standing(self._plan, cell).again:
            return None
        return Outcome(cell=cell, run=run, records=records, scores=scored(cell.plan.task, records))

    def _answer(self, cell: Cell, batches: Sequence[int], there: set[str], run: RunRecord | None) -> None:
        """Answer this process's share of the missing batches; end when all processes have.

        Args:
            cell: the cell.
            batches: numbers of the missing batches; the processes take them in turn.
            there: names of the samples that are recorded.
            run: the record, in the first process.

        Raises:
            RunFailedError: if it failed in this process, or in any and this is the first.
            FailedElsewhereError: if it failed in another, and this is not the first.
        """
        cause: Exception | None = None
        mine = set(batches[self._world.rank :: self._world.size])
        missing = [batch for number, batch in enumerate(cell.plan.batches()) if number in mine]
        try:
            if missing:
                self._answer_batches(cell, missing, there, run)
        except _BatchError as error:
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            self._ranks.fail(str(error))
        except FailedElsewhereError as error:
            cause = error
        try:
            self._ranks.meet()  # from here on nobody writes answers
        except RanksError as error:
            if run is not None:
                run.status, run.error = "failed", str(error)
                cell.folder.write_run(run)
            raise
        problem = self._ranks.problem
        folder = cell.folder
        if run is not None and (there or self._world.size > 1):  # else they lie in order
            folder.merge(sample.id for sample in cell.plan.samples)
        if problem is None:
            return
        if run is not None:
            run.status, run.error = "failed", problem
            folder.write_run(run)
        self._ranks.meet()
        if run is None and (cause is None or isinstance(cause, FailedElsewhereError)):
            raise cause or FailedElsewhereError(problem)
        raise RunFailedError(
            f"{title(cell)} failed: got {problem}; expected an answer to every question. "
            f"{len(folder.ids())} answers are kept in {folder.path}; the same command goes on from there."
        ) from cause

    def _answer_batches(
        self, cell: Cell, missing: Sequence[Sequence[Sample]], there: set[str], run: RunRecord | None
    ) -> None:
        model = self._loaded.model
        if run is not None:
            run.attention = model.config._attn_implementation
            if self._device_map is not None:
                run.device = mapped_in_words(model)
            if cell.plan.task.kind == YES_NO and self._answerer.answer_tokens.reason is not None:
                run.reasons["margin"] = self._answerer.answer_tokens.reason
            cell.folder.write_run(run)
        patch = self._patch(cell)
        adapter = contextlib.nullcontext() if cell.adapter is None else scr.adapter(model, cell.adapter)
        diagnoser = Diagnoser(self._config.diagnostics, self._loaded, self._answerer, patch.parts)
        wanted = {sample.id for sample in cell.plan.wanted_samples} - there
        share = sum(sample.id in wanted for batch in missing for sample in batch)
        alone = self._world.size == 1
        with (
            contextlib.nullcontext() if alone else cell.folder.part(self._world.rank),
            adapter,
            patch,
            Progress(title(cell), share, self._report if self._world.first else None) as progress,
        ):
            for number, batch in enumerate(missing):
                self._ranks.step()
                try:
                    if number == 0:
                        self._warm_up(cell, batch)
                    records = [one for one in self._records(cell, batch, diagnoser, wanted) if one.id in wanted]
                    cell.folder.append(records)
                except Exception as error:
                    where = f"batch {batch[0].id} … {batch[-1].id}" + ("" if alone else f", {self._world}")
                    raise _BatchError(f"{type(error).__name__}: {error} ({where})") from error
                progress.update(len(records))

    def _records(
        self, cell: Cell, batch: Sequence[Sample], diagnoser: Diagnoser, wanted: AbstractSet[str]
    ) -> Iterator[SampleRecord]:
        """Records of a batch, in its order: answers, and failures of what cannot be asked.

        Raises:
            RefusedError: if a wanted sample cannot be asked, and that is to stop the run.
        """
        problems: dict[str, str] = {}
        asked, answers = list(batch), None
        while asked and answers is None:
            try:
                with diagnoser.watching():
                    answers = self._ask(cell, asked)
            except RefusedError as error:
                if self._config.on_error == STOP and wanted & error.problems.keys():
                    raise
                problems |= error.problems
                asked = [sample for sample in asked if sample.id not in problems]
        answers = answers or []
        traces = diagnoser.traces(asked, self._questions(cell, asked), answers)
        found = {sample.id: pair for sample, pair in zip(asked, zip(answers, traces, strict=True), strict=True)}
        for sample in batch:
            answer, trace = found.get(sample.id, (None, None))
            yield self._record(cell, sample, answer, trace, problems.get(sample.id))

    def _finish(self, cell: Cell, run: RunRecord, timed: Mapping[str, int], baseline: Outcome | None) -> Outcome:
        wanted = wanted_records(cell, {record.id: record for record in cell.folder.samples()})
        if wanted is None:  # every batch was answered
            advice = "Report this." if self._world.size == 1 else "Give an --output-dir that all processes share."
            raise RunFailedError(f"{title(cell)}: got answers missing after the last batch; expected all. {advice}")
        scores = scored(cell.plan.task, wanted)
        apply_scores(run, scores)
        others = None
        if baseline is not None:
            # A ratio of times is one of the same process, which computed both.
            shared = {name for name, rank in timed.items() if baseline.timed.get(name) == rank}
            others = (baseline.records, shared)
        run.timing, reasons = summarize_timing(wanted, timed, cell.plan.batch_size, others)
        run.reasons.update(reasons)
        run.status, run.finished = "finished", timestamp()
        cell.folder.write_run(run)
        return Outcome(cell=cell, run=run, records=wanted, scores=scores, timed=timed)

    def _patch(self, cell: Cell) -> scr.Patch:
        patch = patched(self._loaded.model, cell.method, by_part(cell.method, cell.config_given))
        found = patch.config.to_dict()
        if found != cell.config:
            # The folder is named after the configuration that was worked out without weights.
            raise RunFailedError(
                f"{title(cell)}: got {found} on the loaded model; expected {cell.config}, as planned. Report this."
            )
        return patch

    def _warm_up(self, cell: Cell, batch: Sequence[Sample]) -> None:
        """One batch whose answers and times are thrown away: the first forward allocates, and would pay for all."""
        kind = (cell.row, cell.plan.task.kind)
        if kind in self._warm:
            return
        short = {name: value for name, value in cell.generation.items() if name != "min_new_tokens"}
        with contextlib.suppress(RefusedError):  # said where the batch is answered
            self._ask(cell, batch, {**short, "max_new_tokens": 2})
        self._warm.add(kind)

    def _questions(self, cell: Cell, batch: Sequence[Sample]) -> list[Question]:
        return [question(self._plan, cell, one) for one in batch]

    def _ask(self, cell: Cell, batch: Sequence[Sample], generation: dict[str, Any] | None = None) -> list[Answer]:
        return self._answerer.answer(
            self._questions(cell, batch),
            generation or cell.generation,
            seed=self._config.seed,
            margins=cell.plan.task.kind == YES_NO,
        )

    def _record(
        self, cell: Cell, sample: Sample, answer: Answer | None, trace: dict[str, Any] | None, problem: str | None
    ) -> SampleRecord:
        record = SampleRecord(
            id=sample.id,
            image=sample.unit_name,
            prompt=question(self._plan, cell, sample).prompt,
            target=sample.target,
            output="",
            error=problem,
        )
        if answer is None:
            return record
        grade = cell.plan.task.grade(sample.target, answer.text)
        return dataclasses.replace(
            record,
            output=answer.text,
            answer=grade.answer,
            outcome=grade.outcome,
            found=grade.found,
            margin=answer.margin,
            new_tokens=answer.new_tokens,
            prefill_ms=answer.prefill_ms,
            decode_ms=answer.decode_ms,
            trace=trace,
        )
