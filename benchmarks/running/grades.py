"""From replies to records: an answer is graded by the task's rule; the reply of a sample without one is a failure."""

from __future__ import annotations

import dataclasses

from ..records import SampleRecord
from ..tasks.base import Task
from .answers import Reply


def graded(task: Task, reply: Reply) -> SampleRecord:
    """The record of a reply."""
    sample, answer = reply.sample, reply.answer
    record = SampleRecord(
        id=sample.id,
        image=sample.unit_name,
        prompt=reply.question.prompt,
        target=sample.target,
        output="",
        error=reply.problem,
    )
    if answer is None:
        return record
    return dataclasses.replace(
        record,
        output=answer.text,
        **task.grade(sample.target, answer.text)._asdict(),
        margin=answer.margin,
        readout=answer.readout,
        new_tokens=answer.new_tokens,
        prefill_ms=answer.prefill_ms,
        decode_ms=answer.decode_ms,
        trace=reply.trace,
    )
