"""HallusionBench as a task: the official questions, with and without a figure, and the scores of its answers.

The scores alone are in `benchmarks.tasks.hallusionbench.rule`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...records import RecordError, SampleRecord
from ...stats import Comparison, SampleTable
from ..base import Sample, Scores
from ..files import (
    OfficialData,
    compare_shared,
    digest,
    find_images,
    grouped,
    refuse_split,
    require_files,
    sum_of_ratios,
)
from ..yes_no import YesNoTask, grade_again
from .rule import RIGHT, UNCLEAR, WRONG, Question, read_verdict, score_verdicts

QUESTIONS = "HallusionBench.json"
_FIELDS = ("category", "subcategory", "set_id", "figure_id", "question_id", "visual_input")


class FigureQuestion(NamedTuple):
    """One question of the official file: its name, its text, and its figure's file, None without one."""

    question: Question
    text: str
    path: Path | None


class HallusionBench(YesNoTask):
    """HallusionBench without a judge: answers are read by the rule `words` of `benchmarks.score hallusionbench`.

    All 1,129 questions are asked as they are, 178 of them without a figure. The unit is the official set, the questions
    about one figure, its edited forms and none: `limit` counts sets, intervals resample them, and a record's `image` is
    the set's name. Not comparable with scores that a judge gave, nor with those on the 951 questions with a figure.

    Metrics and counts: as `benchmarks.tasks.hallusionbench.rule.score_verdicts`. An answer that cannot be read is right
    where the figure that a question is about is not shown, else wrong; an answer that failed is wrong.
    """

    name = "hallusionbench"
    version = 1
    paper = "Guan et al. 2023, HallusionBench, arXiv:2310.14566"
    checked_against = (
        "the official questions (744007c), and the rule words of benchmarks.score hallusionbench on the same answers; "
        "no official figure was at hand, and no judge"
    )
    rule = "vlmevalkit"
    max_new_tokens = 128
    files = (
        f"{QUESTIONS} (tianyi-lab/HallusionBench) and its figures, VD/... and VS/..., in hallusion_bench/ or beside it"
    )

    @classmethod
    def open_data(cls, folder: Path, split: str | None) -> OfficialData[list[FigureQuestion]]:
        """The official questions, in their order.

        Raises:
            ConfigError: for a file or a figure that is missing, or a broken row.
        """
        from scr import ConfigError
        from scr.files import read_rows

        from ..scoring import field_of
        from .scorer import read_questions

        refuse_split(split, "HallusionBench")
        path = folder / QUESTIONS
        require_files([path], cls.files)
        questions = list(read_questions(path).values())
        rows = read_rows(path)
        texts = [field_of(row, "question", path, number) for number, row in enumerate(rows, start=1)]
        names = [
            None if row.get("filename") is None else field_of(row, "filename", path, number)
            for number, row in enumerate(rows, start=1)
        ]
        for number, (question, name) in enumerate(zip(questions, names, strict=True), start=1):
            if (name is None) != (question.visual_input == "0"):
                raise ConfigError(
                    f"{path}, row {number}: got filename {name!r} with visual_input {question.visual_input}; expected "
                    "a file name for 1 and 2, null for 0. Use the official file."
                )
        shown = [name for name in names if name is not None]
        images = find_images(shown, [folder / "hallusion_bench", folder], cls.files)
        files = [None if name is None else images[name] for name in names]
        content = [FigureQuestion(*row) for row in zip(questions, texts, files, strict=True)]
        return OfficialData(folder=folder, sha256=digest(folder, [path]), content=content)

    def samples(self, data: OfficialData[list[FigureQuestion]], seed: int) -> list[Sample]:
        """The official questions, set after set; nothing is drawn. The id names the question and its `visual_input`."""
        return grouped(
            Sample(
                id=f"{row.question.id}/{row.question.visual_input}",
                image=row.path,
                prompt=row.text,
                target="yes" if row.question.target else "no",
                unit="/".join(_set(row.question)),
            )
            for row in data.content
        )

    def table(self, records: Sequence[SampleRecord]) -> SampleTable:
        """What each record contributes, graded again; a group's share is divided evenly among its questions."""
        graded = grade_again(records, self.rule)
        verdicts = [_verdict(record) for record in graded]
        questions = [question for question, _ in verdicts]
        correct = np.array([_is_correct(*one) for one in verdicts], dtype=bool)
        true = np.array([question.target for question in questions], dtype=bool)
        one = np.ones(len(graded))

        def share(key: Callable[[Question], str], among: Callable[[Question], bool]) -> _Column:
            keys = [(*_set(question), key(question)) if among(question) else None for question in questions]
            return _share_of_groups(keys, correct)

        columns = {
            "a_acc": (correct * one, one),
            "q_acc": share(lambda question: question.question_id, lambda question: True),
            "f_acc": share(lambda question: question.figure_id, lambda question: not question.without_figure),
            "easy": share(lambda question: question.question_id, lambda question: question.visual_input != "2"),
            "hard": share(lambda question: question.question_id, lambda question: question.visual_input == "2"),
            "yes_bias": ((correct == true) - true * one, one),
            "fp_ratio": (~correct * ~true * one, ~correct * one),
        }
        accuracies = [
            np.stack([columns[name][side] for name in ("a_acc", "q_acc", "f_acc")], axis=1) for side in (0, 1)
        ]
        total, weight = sum_of_ratios(*accuracies)
        columns["overall"] = total / 3, weight
        return SampleTable(
            ids=[record.id for record in graded],
            images=[record.image for record in graded],
            metrics=tuple(columns),
            numerators=np.stack([column[0] for column in columns.values()], axis=1),
            denominators=np.stack([column[1] for column in columns.values()], axis=1),
            correct=correct,
            answers=[record.answer for record in graded],
        )

    def score(self, records: Sequence[SampleRecord]) -> Scores:
        """The scores of a run; intervals resample sets."""
        return score_verdicts(_verdict(record) for record in records)

    def compare(self, baseline: Sequence[SampleRecord], method: Sequence[SampleRecord]) -> Comparison:
        """As `Task.compare`; groups are of the samples that both runs have."""
        return compare_shared(self, baseline, method)


_Column = tuple[NDArray[np.float64], NDArray[np.float64]]


def _share_of_groups(keys: Sequence[Hashable | None], correct: NDArray[np.bool_]) -> _Column:
    """What each member contributes to the share of groups all of whose members are correct; None is in no group."""
    sizes = Counter(keys)
    broken = {key for key, right in zip(keys, correct, strict=True) if not right}
    below = np.array([0.0 if key is None else 1 / sizes[key] for key in keys])
    return below * np.array([key not in broken for key in keys], dtype=np.float64), below


def _set(question: Question) -> tuple[str, str, str]:
    return question.category, question.subcategory, question.set_id


def _verdict(record: SampleRecord) -> tuple[Question, int]:
    parts = record.id.split("/")
    if len(parts) != len(_FIELDS) or record.target not in ("yes", "no"):
        raise RecordError(
            f"a sample is no question of HallusionBench: got id {record.id!r}, target {record.target!r}; expected "
            f"{'/'.join(_FIELDS)}, and yes or no. Run it again."
        )
    question = Question(**dict(zip(_FIELDS, parts, strict=True)), target=record.target == "yes")
    return question, WRONG if record.error is not None else read_verdict(record.output, "words", question.target)


def _is_correct(question: Question, verdict: int) -> bool:
    return verdict == RIGHT or (verdict == UNCLEAR and question.without_figure)
