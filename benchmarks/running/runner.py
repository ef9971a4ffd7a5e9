"""Run a plan: batch after batch into the records, from where the last run stopped.

A question goes plan → `questions` → `answers` → `grades` → store → `outcomes`; this file says what is asked, and when.
Several processes take whole batches in turn, each into a file of its own. The first merges them, scores and writes
`run.json`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from scr.command.progress import Progress

from ..records import RunRecord
from .answers import Asker
from .cells import (
    check_diagnosed,
    kept_run,
    missing_batches,
    new_run,
    resuming,
    standing,
    tell_model,
    title,
    turns,
)
from .grades import graded
from .methods import BASELINE
from .outcomes import Outcome, RunFailedError, finish, stored_outcome
from .plan import Cell, Plan, RunConfig, build_plan
from .questions import batches_to_ask
from .ranks import FailedElsewhereError, Ranks, RanksError
from .rescoring import grade_old_samples


class _BatchError(Exception):
    """A batch that failed; the message says how and which one, the cause is what was raised."""


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
    asker = Asker(plan, device_map, report if ranks.world.first else None)
    session = _Session(plan, asker, ranks, report)
    outcomes: list[Outcome] = []
    for cell in plan.cells:
        if ranks.world.first:
            same = (one for one in outcomes if one.cell.work is cell.work and one.cell.row == BASELINE)
            outcomes.append(session.run_cell(cell, next(same, None)))
        else:
            session.help_with(cell)
    return outcomes


class _Session:
    """One process's part: which batches it answers, and what the processes tell each other."""

    def __init__(self, plan: Plan, asker: Asker, ranks: Ranks, report: Callable[[str], None]) -> None:
        self._plan, self._config, self._asker, self._report = plan, plan.config, asker, report
        self._ranks, self._world = ranks, ranks.world

    def run_cell(self, cell: Cell, baseline: Outcome | None) -> Outcome:
        """The first process's part of a cell."""
        if not self._config.overwrite:
            stored = stored_outcome(self._plan, cell)
            if stored is not None:
                self._report(f"{title(cell)}: taken from {cell.folder.path}")
                self._ranks.share([])
                return stored
        with cell.folder.lock():
            if self._config.overwrite:
                cell.folder.clear()
            before, found = cell.folder.read_run(), standing(self._plan, cell)
            cell.folder.merge((sample.id for sample in cell.work.samples), without=found.again)
            grade_old_samples(cell.folder, cell.work.task, before)
            there = found.answered
            batches = missing_batches(cell, there)
            if batches and (there or found.again):
                self._report(resuming(cell, found, before))
            if batches or before is None:
                run = new_run(self._plan, cell, before, self._world.size)
            else:
                run = kept_run(self._plan, cell, before)
            self._ranks.share(batches)
            if batches:
                self._answer(cell, batches, there, run)
            outcome = finish(cell, run, turns(cell, batches, there, self._world.size), baseline)
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
        try:
            if mine:
                self._answer_batches(cell, mine, there, run)
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
            folder.merge(sample.id for sample in cell.work.samples)
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

    def _answer_batches(self, cell: Cell, mine: set[int], there: set[str], run: RunRecord | None) -> None:
        loaded = self._asker.loaded
        self._ranks.step()
        if run is not None:
            tell_model(run, cell, loaded.model, self._asker.answerer.answer_tokens, mapped=self._asker.mapped)
            cell.folder.write_run(run)
        alone = self._world.size == 1
        share = sum(len(batch.wanted) for batch in batches_to_ask(self._plan, cell, mine, there))
        with (
            contextlib.nullcontext() if alone else cell.folder.part(self._world.rank),
            self._asker.asking(cell) as replies,
            Progress(title(cell), share, self._report if self._world.first else None) as progress,
        ):
            for batch in batches_to_ask(self._plan, cell, mine, there):
                self._ranks.step()
                try:
                    wanted = [reply for reply in replies(batch) if reply.sample.id in batch.wanted]
                    cell.folder.append([graded(cell.work.task, reply) for reply in wanted])
                except Exception as error:
                    first, last = (one.sample.id for one in (batch.asked[0], batch.asked[-1]))
                    where = f"batch {first} … {last}" + ("" if alone else f", {self._world}")
                    raise _BatchError(f"{type(error).__name__}: {error} ({where})") from error
                progress.update(len(wanted))
