"""`score pope`: answers to POPE's question files, from any tool, by any of the rules."""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scr.files import read_rows

from ...records import SampleRecord
from ..base import Scores
from ..harnesses import answer_rows
from ..parsing import RULES
from ..scoring import AnswerFileError, Scored, Scorer, field_of, match_ids
from ..yes_no import score_answers
from .harnesses import answers_of_samples, is_table, plain, questions_of_table

# Files of A-OKVQA and GQA are called "aokvqa_pope_seem_random" and the like: other questions than those of our tasks.
SPLITS = ("random", "popular", "adversarial")
_SPLIT = re.compile(rf"coco_pope_({'|'.join(SPLITS)})")

KNOWN_FILES: dict[str, str] = {
    "ac25245170b9": "COCO random, 3,000 questions, the current file",
    "72c1a8ad45d0": "COCO popular, the current file",
    "420b3407db1f": "COCO adversarial, the current file",
    "c16b65d2df6d": "COCO random, 2,910 questions, the file of August 2023",
    "5b16653023bf": "COCO popular, the file of August 2023",
    "1d8f0906a9b5": "COCO adversarial, the file of August 2023",
}
"""First digits of a file's SHA-256 → which it is; RUCAIBox/POPE e3e3926 (2023) and 3df3ba1. The versions differ in some
questions, so numbers made with one are not those of another.
"""


class PopeScorer(Scorer):
    """Scores answers to POPE's questions; metrics as those of the task, see `benchmarks.tasks.yes_no`."""

    summary = (
        "POPE: is an object in the image? Checked against the scorers of lmms-eval 0.7.3 and VLMEvalKit on messy "
        "answers, and against POPE's and VCD's rules written out"
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the two files and the rule."""
        parser.add_argument(
            "--questions",
            type=Path,
            metavar="FILE",
            help="an official file, JSON lines or a JSON array of {question_id, image, text, label}; a table of "
            "VLMEvalKit has its own",
        )
        parser.add_argument(
            "--answers",
            type=Path,
            required=True,
            metavar="FILE",
            help="JSON lines or a JSON array of {question_id, text}, in any order, or of {question, answer}, in the "
            "order of the questions; lmms-eval's samples; or a table of VLMEvalKit (.xlsx, .tsv)",
        )
        parser.add_argument(
            "--split",
            choices=SPLITS,
            help="of a table of VLMEvalKit, which has all: the one to score",
        )
        parser.add_argument(
            "--rule", choices=list(RULES), default="pope", help="how answers are read and rates made (default: pope)"
        )

    def score(self, options: argparse.Namespace) -> Scored:
        """Read and score.

        Raises:
            DataFileError: for a file that cannot be read, or answers that do not match the questions.
        """
        questions, outputs, notes = _read(options)
        answered = [
            SampleRecord(id=one.id, image=one.image, prompt=one.prompt, target=one.target, output=output)
            for one, output in zip(questions, outputs, strict=True)
            if output is not None
        ]
        scores = score_answers(answered, options.rule)
        missing = len(questions) - len(answered)
        counts = {**scores.counts, **({"missing": missing} if missing else {})}
        reasons = {**scores.reasons, "auc": "the file of answers has no scores, only texts"}
        named = _SPLIT.match(options.questions.name) if options.questions else None
        split = named[1] if named else options.split
        intervals = scores.intervals if all(one.image for one in questions) else {}
        return Scored(
            task=f"pope_{split}" if split else "pope",
            rule=options.rule,
            scores=Scores(metrics=scores.metrics, counts=counts, intervals=intervals, reasons=reasons),
            notes=notes,
        )


def _read(options: argparse.Namespace) -> tuple[list[SampleRecord], list[str | None], list[str]]:
    """The questions, what was answered to each, and notes."""
    path: Path = options.answers
    if options.questions is None or options.split is not None:
        rows = answer_rows(path)
        if options.questions is not None or not is_table(rows):
            raise AnswerFileError(
                f"{path} without its own questions: got {'--split with' if options.split else 'no'} --questions; "
                "expected --questions, or a table of VLMEvalKit and --split alone. See --help."
            )
        asked, outputs = questions_of_table(rows, path, options.split)
        notes = [] if all(one.image for one in asked) else ["no intervals: the table does not name the images"]
        return asked, list(outputs), notes
    questions = read_questions(options.questions)
    found, notes = read_answers(path, questions, options.allow_missing)
    return questions, found, [*notes, _version(options.questions)]


def read_questions(path: Path) -> list[SampleRecord]:
    """The questions of a file, in its order, as records without an output.

    Raises:
        DataFileError: for a row that is no question, a label that is neither yes nor no, or an id that comes twice.
    """
    questions: list[SampleRecord] = []
    seen: set[str] = set()
    for number, row in enumerate(read_rows(path), start=1):
        name = str(field_of(row, "question_id", path, number, (int, str)))
        label = field_of(row, "label", path, number).strip().lower()
        if label not in ("yes", "no"):
            raise AnswerFileError(
                f"{path}, row {number}: got the label {row['label']!r}; expected yes or no. Check the file."
            )
        if name in seen:
            raise AnswerFileError(
                f"{path}, row {number}: got the question_id {name!r} again; expected each once. Score one split at a "
                "time."
            )
        seen.add(name)
        image, text = field_of(row, "image", path, number), field_of(row, "text", path, number)
        questions.append(SampleRecord(id=name, image=image, prompt=text, target=label, output=""))
    if not questions:
        raise AnswerFileError(f"{path} has no questions: got no rows; expected one per question. Check the file.")
    return questions


def read_answers(
    path: Path, questions: Sequence[SampleRecord], allow_missing: bool
) -> tuple[list[str | None], list[str]]:
    """What was answered to each question, None where nothing was; and notes.

    Rows with a `question_id` are matched by it. Rows without are taken in the order of the questions, and a row's own
    `question`, if it has one, must hold the text of its question. Such rows say nothing about which answer is missing,
    so only the last ones may be.

    Raises:
        DataFileError: naming the first answer that is missing, of no question, double or not to this question.
    """
    rows, notes = answers_of_samples(answer_rows(path), path, questions)
    if is_table(rows):
        raise AnswerFileError(
            f"{path} has questions of its own: got a table of VLMEvalKit with --questions; expected one of both. Give "
            "--split in place of --questions."
        )
    if any(isinstance(row, dict) and "question_id" in row for row in rows):
        outputs, others = _by_id(rows, path, questions, allow_missing)
        return outputs, [*notes, *others]
    return _in_order(rows, path, questions, allow_missing)


def _by_id(
    rows: Sequence[Any], path: Path, questions: Sequence[SampleRecord], allow_missing: bool
) -> tuple[list[str | None], list[str]]:
    given: list[tuple[str, str]] = []
    asked = {one.id: one for one in questions}
    for number, row in enumerate(rows, start=1):
        name = str(field_of(row, "question_id", path, number, (int, str)))
        _check_question(row, asked.get(name), path, number)
        given.append((name, field_of(row, "answer" if "answer" in row and "text" not in row else "text", path, number)))
    notes = match_ids([one.id for one in questions], [name for name, _ in given], path, allow_missing)
    found = dict(given)
    return [found.get(one.id) for one in questions], notes


def _in_order(
    rows: Sequence[Any], path: Path, questions: Sequence[SampleRecord], allow_missing: bool
) -> tuple[list[str | None], list[str]]:
    outputs: list[str | None] = []
    for number, row in enumerate(rows, start=1):
        answer = field_of(row, "answer", path, number)
        if number > len(questions):
            raise AnswerFileError(
                f"{path}, row {number}: got {len(rows)} answers; expected {len(questions)}, one per question. "
                "Repair the file."
            )
        _check_question(row, questions[number - 1], path, number)
        outputs.append(answer)
    ids = [one.id for one in questions]
    notes = match_ids(ids, ids[: len(outputs)], path, allow_missing)
    return [*outputs, *[None] * (len(ids) - len(outputs))], notes


def _check_question(row: dict[str, Any], asked: SampleRecord | None, path: Path, number: int) -> None:
    if asked is None or "question" not in row:
        return
    # What was really asked may have an instruction behind the question.
    if plain(asked.prompt) not in plain(field_of(row, "question", path, number)):
        raise AnswerFileError(
            f"{path}, row {number} answers another question: got {row['question'][:80]!r}; expected {asked.prompt!r} "
            f"(question_id {asked.id}). Use the questions that were asked, and their order."
        )


def _version(path: Path) -> str:
    if not path.is_file():  # a pipe, which is empty by now
        return "questions: read from what is no file, so it is not known which they are"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return f"questions: {KNOWN_FILES.get(digest, 'not a COCO file of POPE that is known here')} (SHA-256 {digest}...)"
