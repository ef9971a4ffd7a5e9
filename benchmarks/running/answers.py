"""From questions to replies: the model, with a cell's adapter and method on it, is asked batch after batch."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..asking.answering import Answer, Answerer, Question, RefusedError
from ..asking.diagnostics import Diagnoser
from ..asking.models import LoadedModel, load_model
from ..tasks.base import Sample
from .applying import applied
from .cells import title
from .methods import by_part
from .outcomes import RunFailedError
from .plan import STOP, Cell, Plan
from .prompts import YES_NO
from .questions import Asked, QuestionBatch


class Reply(NamedTuple):
    """What came of a question.

    Attributes:
        sample: what it was about.
        question: how it was put.
        answer: None if it could not be asked.
        trace: what was measured beside the answer; None for nothing.
        problem: why it could not be asked; None if it was.
    """

    sample: Sample
    question: Question
    answer: Answer | None
    trace: dict[str, Any] | None
    problem: str | None


class Asker:
    """Asks one model, which is loaded when the first answer is missing.

    Args:
        plan: what is run.
        device_map: see `benchmarks.asking.models.load_model`.
        report: is told that the model is loaded.
    """

    def __init__(
        self, plan: Plan, device_map: str | dict[str, Any] | None = None, report: Callable[[str], None] | None = None
    ) -> None:
        self._plan, self._device_map, self._report = plan, device_map, report
        self._warm: set[tuple[str, str]] = set()

    @property
    def mapped(self) -> bool:
        """Whether the model is spread by a device map."""
        return self._device_map is not None

    @functools.cached_property
    def loaded(self) -> LoadedModel:
        """The model."""
        plan = self._plan
        if self._report is not None:
            self._report(f"loading {plan.source.name} on {plan.device} in {plan.dtype}")
        return load_model(
            plan.source,
            dtype=plan.dtype,
            device=str(plan.device),
            attn_implementation=plan.config.attn_implementation,
            device_map=self._device_map,
        )

    @functools.cached_property
    def answerer(self) -> Answerer:
        """What puts questions to it."""
        return Answerer(self.loaded)

    @contextlib.contextmanager
    def asking(self, cell: Cell) -> Iterator[Callable[[QuestionBatch], list[Reply]]]:
        """Put the cell's adapter and method on the model; what is given turns a batch into its replies, in its order.

        Raises:
            RunFailedError: if the method has another configuration on the loaded model than was planned.
        """
        given = by_part(cell.method, cell.config_given)
        with applied(self.loaded.model, cell.method, given, cell.adapter) as patch:
            found = patch.config.to_dict()
            if found != cell.config:
                # The folder is named after the configuration that was worked out without weights.
                raise RunFailedError(
                    f"{title(cell)}: got {found} on the loaded model; expected {cell.config}, as planned. Report this."
                )
            diagnoser = Diagnoser(self._plan.config.diagnostics, self.loaded, self.answerer, patch.parts)
            yield lambda batch: self._replies(cell, batch, diagnoser)

    def _replies(self, cell: Cell, batch: QuestionBatch, diagnoser: Diagnoser) -> list[Reply]:
        """Answers, and problems of what cannot be asked.

        Raises:
            RefusedError: if a wanted sample cannot be asked, and that is to stop the run.
        """
        self._warm_up(cell, batch)
        problems: dict[str, str] = {}
        asked: list[Asked] = list(batch.asked)
        answers: list[Answer] | None = None
        while asked and answers is None:
            try:
                with diagnoser.watching():
                    answers = self._ask(cell, asked)
            except RefusedError as error:
                if self._plan.config.on_error == STOP and batch.wanted & error.problems.keys():
                    raise
                problems |= error.problems
                asked = [one for one in asked if one.sample.id not in problems]
        answers = answers or []
        traces = diagnoser.traces([one.sample for one in asked], [one.question for one in asked], answers)
        told = dict(zip((one.sample.id for one in asked), zip(answers, traces, strict=True), strict=True))
        replies = []
        for sample, question in batch.asked:
            answer, trace = told.get(sample.id, (None, None))
            replies.append(Reply(sample, question, answer, trace, problems.get(sample.id)))
        return replies

    def _warm_up(self, cell: Cell, batch: QuestionBatch) -> None:
        """One batch whose answers and times are thrown away: the first forward allocates, and would pay for all."""
        kind = (cell.row, cell.work.task.kind)
        if kind in self._warm:
            return
        short = {name: value for name, value in cell.generation.items() if name != "min_new_tokens"}
        with contextlib.suppress(RefusedError):  # said where the batch is answered
            self._ask(cell, batch.asked, {**short, "max_new_tokens": 2})
        self._warm.add(kind)

    def _ask(self, cell: Cell, asked: Sequence[Asked], generation: Mapping[str, Any] | None = None) -> list[Answer]:
        return self.answerer.answer(
            [one.question for one in asked],
            generation or cell.generation,
            seed=self._plan.config.seed,
            margins=cell.work.task.kind == YES_NO,
        )
