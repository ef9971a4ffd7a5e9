"""MM-Vet as a task: the official questions; its answers are recorded, and graded elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...records import RecordError, SampleRecord
from ...stats import SampleTable
from ..base import Grade, Sample, Scores, Task
from ..files import OfficialData, digest, find_images, grouped, refuse_split, require_files

if TYPE_CHECKING:
    from .scorer import Question

QUESTIONS = "mm-vet.json"
_NO_GRADES = (
    "answers are recorded, not graded: python -m benchmarks.score mmvet --data mm-vet.json --predictions samples.jsonl "
    "--export FILE writes what to grade, and scores with --grades FILE"
)


class NamedQuestion(NamedTuple):
    """One question: its official name, what the file says, and the image's file."""

    id: str
    question: Question
    path: Path


class MmVet(Task):
    """MM-Vet's free questions. Its scores are means of grades that GPT-4, or whoever one asks, gives to the answers.

    So the metrics `total` and those of the capabilities are null here, and `benchmarks.score mmvet` computes them from
    the run's samples.jsonl and recorded grades. A file of grades in the data folder is not read: grades are of one
    model's answers, and would be taken for those of another method's.
    """

    name = "mmvet"
    version = 1
    paper = "Yu et al. 2023, MM-Vet, arXiv:2308.02490"
    checked_against = "nothing official: the file's format is that of its documentation; no grader was asked"
    rule = "recorded grades"
    kind = "caption"
    max_new_tokens = 512
    ability = "total"
    files = f"{QUESTIONS} of MM-Vet's release (yuweihao/MM-Vet, v1) and its images in images/ or beside it"

    @classmethod
    def open_data(cls, folder: Path, split: str | None) -> OfficialData[list[NamedQuestion]]:
        """The official questions, in their order.

        Raises:
            ConfigError: for a file or an image that is missing, or a broken row.
        """
        from .scorer import read_questions

        refuse_split(split, "MM-Vet")
        path = folder / QUESTIONS
        require_files([path], cls.files)
        questions = read_questions(path)
        images = find_images((one.image for one in questions.values()), [folder / "images", folder], cls.files)
        content = [NamedQuestion(name, one, images[one.image]) for name, one in questions.items()]
        return OfficialData(folder=folder, sha256=digest(folder, [path]), content=content)

    def samples(self, data: OfficialData[list[NamedQuestion]], seed: int) -> list[Sample]:
        """The official questions under their official names, grouped by image; nothing is drawn."""
        return grouped(
            Sample(
                id=row.id,
                image=row.path,
                prompt=row.question.text,
                target={"answer": row.question.reference, "capability": sorted(row.question.capabilities)},
            )
            for row in data.content
        )

    def grade(self, target: Any, output: str) -> Grade:
        """Nothing: grades are given elsewhere."""
        return Grade(None, None)

    def table(self, records: Sequence[SampleRecord]) -> SampleTable:
        """No metrics: which answers differ is all that can be compared."""
        none = np.zeros((len(records), 0))
        return SampleTable(
            ids=[record.id for record in records],
            images=[record.image for record in records],
            metrics=(),
            numerators=none,
            denominators=none,
            correct=np.zeros(len(records), dtype=bool),
            answers=[record.output for record in records],
        )

    def score(self, records: Sequence[SampleRecord]) -> Scores:
        """No metric has a value. Counts: n, failed, empty, and `n_<capability>`, the questions that need it."""
        from .scorer import CAPABILITIES

        names = ("total", *CAPABILITIES)
        needed = [_capabilities(record) for record in records]
        counts = {
            "n": len(records),
            "failed": sum(record.error is not None for record in records),
            "empty": sum(not record.output for record in records),
            **{f"n_{name}": sum(name in one for one in needed) for name in CAPABILITIES},
        }
        return Scores(metrics=dict.fromkeys(names), counts=counts, reasons=dict.fromkeys(names, _NO_GRADES))


def _capabilities(record: SampleRecord) -> list[str]:
    found = record.target.get("capability") if isinstance(record.target, dict) else None
    if not isinstance(found, list):
        raise RecordError(
            f"the target of {record.id!r} is wrong: got {record.target!r}; expected an answer and a list as "
            "capability. Run it again."
        )
    return found
