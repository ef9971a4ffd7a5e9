"""From samples to questions: what the model is asked, batch by batch. The first step of a question on its way."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from ..asking.answering import Question
from ..tasks.base import Sample
from .plan import Cell, Plan
from .prompts import apply_prompt


class Asked(NamedTuple):
    """A sample, and how it is put to the model."""

    sample: Sample
    question: Question


class QuestionBatch(NamedTuple):
    """What is asked at once.

    Attributes:
        asked: in the task's order; those beyond the limit or recorded before too, so that a batch is always the same.
        wanted: names of those whose answers are to be recorded.
    """

    asked: Sequence[Asked]
    wanted: frozenset[str]


def question(plan: Plan, cell: Cell, sample: Sample) -> Question:
    """What the model is asked about a sample, prompt variant included."""
    prompt = apply_prompt(plan.config.prompt, cell.work.task.kind, sample.prompt)
    return Question(id=sample.id, image=sample.image, prompt=prompt)


def batches_to_ask(plan: Plan, cell: Cell, numbers: Collection[int], there: Collection[str]) -> Iterator[QuestionBatch]:
    """Some batches of a cell, made one by one: of a large data set they take more room than the names of its samples.

    Args:
        plan: the plan.
        cell: one of its cells.
        numbers: which of `TaskWork.batches`.
        there: names of the samples that are recorded.
    """
    wanted = {sample.id for sample in cell.work.wanted_samples} - set(there)
    for number, samples in enumerate(cell.work.batches()):
        if number in numbers:
            yield QuestionBatch(
                [Asked(sample, question(plan, cell, sample)) for sample in samples],
                frozenset(sample.id for sample in samples if sample.id in wanted),
            )
