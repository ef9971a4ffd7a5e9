"""Run a plan: batch after batch into the records, from where the last run stopped."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm import tqdm

import scr
from scr import SCRError

from .answering import Answer, Answerer, Question
from .methods import BASELINE, by_part, nested
from .models import LoadedModel, load_model
from .plan import Cell, Plan, RunConfig, build_plan
from .prompts import YES_NO, apply_prompt
from .provenance import checkout_state, package_versions, timestamp
from .records import RunRecord, SampleRecord
from .rescoring import apply_scores
from .speed import summarize_timing
from .tasks.base import Sample, Scores


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
        timed: ids of the samples that were answered, and so timed, by this process.
    """

    cell: Cell
    run: RunRecord
    records: Sequence[SampleRecord]
    scores: Scores
    timed: frozenset[str] = field(default_factory=frozenset)

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
        SCRError, UnknownTaskError, ...: as `benchmarks.plan.build_plan`.
    """
    return run_plan(build_plan(config), report)


def run_plan(plan: Plan, report: Callable[[str], None] = lambda line: None) -> list[Outcome]:
    """As `run`, of a plan that was built before."""
    # Trained models underflow a lot, and a CPU computes with denormals many times slower. No answer depends on them.
    torch.set_flush_denormal(True)
    session = _Session(plan, report)
    outcomes: list[Outcome] = []
    for cell in plan.cells:
        baseline = next((one for one in outcomes if one.cell.plan is cell.plan and one.cell.method == BASELINE), None)
        outcomes.append(session.run_cell(cell, baseline))
    return outcomes


class _Session:
    """One process's work: the model is loaded when the first answer is missing."""

    def __init__(self, plan: Plan, report: Callable[[str], None]) -> None:
        self._plan, self._config, self._report = plan, plan.config, report
        self._warm: set[tuple[str, str]] = set()

    @functools.cached_property
    def _loaded(self) -> LoadedModel:
        self._report(f"loading {self._plan.source.name} on {self._plan.device} in {self._plan.dtype}")
        return load_model(
            self._plan.source,
            dtype=self._plan.dtype,
            device=str(self._plan.device),
            attn_implementation=self._config.attn_implementation,
        )

    @functools.cached_property
    def _answerer(self) -> Answerer:
        return Answerer(self._loaded)

    def run_cell(self, cell: Cell, baseline: Outcome | None) -> Outcome:
        if not self._config.overwrite:
            stored = self._stored(cell)
            if stored is not None:
                self._report(f"{_title(cell)}: taken from {cell.folder.path}")
                return stored
        with cell.folder.lock():
            if self._config.overwrite:
                cell.folder.clear()
            before = cell.folder.read_run()
            records = {record.id: record for record in cell.folder.samples()}
            missing = [batch for batch, wanted in _batches(cell) if any(sample.id not in records for sample in wanted)]
            if missing and records:
                self._report(_resuming(cell, records, before))
            run = self._start(cell, before)
            timed = self._answer(cell, run, missing, records) if missing else []
            return self._finish(cell, run, {**records, **{record.id: record for record in timed}}, timed, baseline)

    def _stored(self, cell: Cell) -> Outcome | None:
        """The outcome as it lies in the store, None if something is missing."""
        run = cell.folder.read_run()
        if run is None or run.status != "finished" or not _covers(run.limit, self._config.limit):
            return None
        records = _wanted_records(cell, {record.id: record for record in cell.folder.samples()})
        if records is None:
            return None
        return Outcome(cell=cell, run=run, records=records, scores=cell.plan.task.score(records))

    def _start(self, cell: Cell, before: RunRecord | None) -> RunRecord:
        config, plan, task = self._config, self._plan, cell.plan.task
        commit, dirty = checkout_state()
        return RunRecord(
            status="running",
            created=before.created if before is not None else timestamp(),
            command=config.command,
            model=plan.source.name,
            revision=plan.source.revision,
            family=plan.family,
            dtype=plan.dtype,
            device=_in_words(plan.device),
            attention=before.attention if before is not None else config.attn_implementation,
            method=cell.method,
            config=cell.config,
            config_given=cell.config_given,
            prompt=config.prompt,
            task=task.name,
            task_version=task.version,
            rule=task.rule,
            data_sha256=plan.data_sha256,
            limit=config.limit,
            seed=config.seed,
            generation=cell.generation,
            batch_size=config.batch_size,
            commit=commit,
            dirty=dirty,
            packages=package_versions(),
        )

    def _answer(
        self, cell: Cell, run: RunRecord, missing: Sequence[Sequence[Sample]], there: dict[str, SampleRecord]
    ) -> list[SampleRecord]:
        """Answer what is missing, batch by batch, and record it."""
        run.attention = self._loaded.model.config._attn_implementation
        if cell.plan.task.kind == YES_NO and self._answerer.answer_tokens.reason is not None:
            run.reasons["margin"] = self._answerer.answer_tokens.reason
        patched = self._patch(cell)
        cell.folder.write_run(run)
        wanted = {sample.id for sample in cell.plan.wanted_samples} - set(there)
        made: list[SampleRecord] = []
        batch: Sequence[Sample] = missing[0]
        try:
            with patched, tqdm(total=len(wanted), desc=_title(cell), unit="answers", disable=None) as bar:
                self._warm_up(cell, batch)
                for batch in missing:
                    records = [
                        self._record(cell, sample, answer)
                        for sample, answer in zip(batch, self._ask(cell, batch), strict=True)
                        if sample.id in wanted
                    ]
                    cell.folder.append(records)
                    made += records
                    bar.update(len(records))
        except Exception as error:
            where = f"batch {batch[0].id} … {batch[-1].id}"
            run.status, run.error = "failed", f"{type(error).__name__}: {error} ({where})"
            cell.folder.write_run(run)
            raise RunFailedError(
                f"{_title(cell)} failed: got {run.error}; expected an answer to every question. "
                f"{len(there) + len(made)} answers are kept in {cell.folder.path}; the same command goes on from there."
            ) from error
        return made

    def _finish(
        self,
        cell: Cell,
        run: RunRecord,
        records: dict[str, SampleRecord],
        timed: Sequence[SampleRecord],
        baseline: Outcome | None,
    ) -> Outcome:
        wanted = _wanted_records(cell, records)
        if wanted is None:  # every batch was answered, so this is a fault of ours and not the user's
            raise RunFailedError(
                f"{_title(cell)}: got answers missing after the last batch; expected all. Report this."
            )
        ids = frozenset(record.id for record in timed)
        scores = cell.plan.task.score(wanted)
        apply_scores(run, scores)
        others = (baseline.records, baseline.timed) if baseline is not None else None
        run.timing, reason = summarize_timing(wanted, ids, others)
        if reason is not None:
            run.reasons["timing.ratio"] = reason
        run.status, run.finished = "finished", timestamp()
        cell.folder.write_run(run)
        return Outcome(cell=cell, run=run, records=wanted, scores=scores, timed=ids)

    def _patch(self, cell: Cell) -> contextlib.AbstractContextManager[Any]:
        given = by_part(cell.method, cell.config_given)
        patches = [scr.patch(self._loaded.model, part, **fields) for part, fields in given.items()]
        found = {patch.name: patch.config.to_dict() for patch in patches}
        if found != by_part(cell.method, cell.config):
            # The folder is named after the configuration that was worked out without weights.
            raise RunFailedError(
                f"{_title(cell)}: got {found} on the loaded model; expected {cell.config}, as planned. Report this."
            )
        return nested(patches)

    def _warm_up(self, cell: Cell, batch: Sequence[Sample]) -> None:
        """One batch whose answers and times are thrown away: the first forward allocates, and would pay for all."""
        kind = (cell.method, cell.plan.task.kind)
        if kind in self._warm:
            return
        short = {name: value for name, value in cell.generation.items() if name != "min_new_tokens"}
        self._ask(cell, batch, {**short, "max_new_tokens": 2})
        self._warm.add(kind)

    def _ask(self, cell: Cell, batch: Sequence[Sample], generation: dict[str, Any] | None = None) -> list[Answer]:
        kind = cell.plan.task.kind
        questions = [
            Question(id=one.id, image=one.image, prompt=apply_prompt(self._config.prompt, kind, one.prompt))
            for one in batch
        ]
        return self._answerer.answer(
            questions, generation or cell.generation, seed=self._config.seed, margins=kind == YES_NO
        )

    def _record(self, cell: Cell, sample: Sample, answer: Answer) -> SampleRecord:
        grade = cell.plan.task.grade(sample.target, answer.text)
        return SampleRecord(
            id=sample.id,
            image=sample.image.name,
            prompt=apply_prompt(self._config.prompt, cell.plan.task.kind, sample.prompt),
            target=sample.target,
            output=answer.text,
            answer=grade.answer,
            outcome=grade.outcome,
            margin=answer.margin,
            new_tokens=answer.new_tokens,
            prefill_ms=answer.prefill_ms,
            decode_ms=answer.decode_ms,
        )


def _batches(cell: Cell) -> Iterator[tuple[Sequence[Sample], Sequence[Sample]]]:
    """Each batch, and the part of it that is wanted."""
    start = 0
    for batch in cell.plan.batches():
        yield batch, batch[: max(0, cell.plan.wanted - start)]
        start += len(batch)


def _wanted_records(cell: Cell, records: dict[str, SampleRecord]) -> list[SampleRecord] | None:
    found = [records[sample.id] for sample in cell.plan.wanted_samples if sample.id in records]
    return found if len(found) == cell.plan.wanted else None


def _covers(limit: int | None, asked: int | None) -> bool:
    return limit is None or (asked is not None and limit >= asked)


def _resuming(cell: Cell, records: dict[str, SampleRecord], before: RunRecord | None) -> str:
    line = f"{_title(cell)}: goes on after {len(records)} answers in {cell.folder.path}"
    if before is not None and before.batch_size != cell.plan.batch_size:
        line += f", with batches of {cell.plan.batch_size} where {before.batch_size} were used (a near-tie can flip)"
    return line


def _title(cell: Cell) -> str:
    return f"{cell.plan.task.name} · {cell.method}"


def _in_words(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device}: {torch.cuda.get_device_name(device)}"
    return f"{device}, {torch.get_num_threads()} threads"
