"""POPE's answers as lmms-eval and VLMEvalKit leave them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...records import SampleRecord
from ..harnesses import is_of_vlmevalkit, kept_by_lmms_eval, said_to_lmms_eval, texts_of
from ..scoring import AnswerFileError, field_of

_KEPT = ("pope_accuracy",)


def answers_of_samples(
    rows: Sequence[Any], path: Path, questions: Sequence[SampleRecord]
) -> tuple[list[Any], list[str]]:
    """Samples of lmms-eval as rows {question_id, text, question}, all other rows as they are; and notes.

    lmms-eval's task of all three splits asks a question_id up to three times. Of such samples those count whose text
    is the question's; where two are, which two splits have asked, they count once if they say the same.

    Raises:
        DataFileError: for a sample whose true answer is not its question's.
    """
    kept = [kept_by_lmms_eval(row, _KEPT) for row in rows]
    if not all(kept):
        return list(rows), []
    asked = {one.id: one for one in questions}
    found = []
    for number, (row, own) in enumerate(zip(rows, kept, strict=True), start=1):
        name = str(field_of(own, "question_id", path, number, (int, str)))
        text, question = said_to_lmms_eval(row, path, number), field_of(row, "input", path, number)
        found.append({"question_id": name, "text": text, "question": question, "target": str(row.get("target"))})
    times = Counter(row["question_id"] for row in found)
    mine = [row for row in found if times[row["question_id"]] == 1 or _asks(row, asked.get(row["question_id"]))]
    for row in mine:
        one = asked.get(row["question_id"])
        if one is not None and _asks(row, one) and row["target"].strip().lower() != one.target:
            raise AnswerFileError(
                f"{path}: got the true answer {row['target'][:20]!r} to question_id {one.id}, {one.prompt!r}; expected "
                f"{one.target!r}. Give the question file of this version and split."
            )
    once = list({(row["question_id"], row["question"], row["text"]): row for row in mine}.values())
    others = len(found) - len(mine)
    return once, [f"{others} answers to questions of other splits are not scored"] if others else []


def is_table(rows: Sequence[Any]) -> bool:
    """Whether all rows are of a table of VLMEvalKit."""
    return bool(rows) and all(map(is_of_vlmevalkit, rows))


def questions_of_table(rows: Sequence[Any], path: Path, split: str | None) -> tuple[list[SampleRecord], list[str]]:
    """The questions of a split in a table of VLMEvalKit, and what was answered to each.

    A question that several splits ask stands there once, with all of their names in `category`.

    Raises:
        DataFileError: for a table of several splits where none is named, or without any row of it; for a row that is
            no question, or an index that comes twice.
    """
    questions: list[SampleRecord] = []
    outputs: list[str] = []
    splits = Counter[str]()
    for number, row in enumerate(rows, start=1):
        name, text, label, category, output = texts_of(
            row, ("index", "question", "answer", "category", "prediction"), path, number
        )
        if label.strip().lower() not in ("yes", "no"):
            raise AnswerFileError(
                f"{path}, row {number}: got the answer {label[:40]!r}; expected Yes or No. Check the file."
            )
        own = [one.strip() for one in category.split(",")]
        splits.update(own)
        if split is None or split in own:
            image = str(row.get("image_path") or "")
            target = label.strip().lower()
            questions.append(SampleRecord(id=name, image=image, prompt=text, target=target, output=""))
            outputs.append(output)
    twice = [name for name, count in Counter(one.id for one in questions).items() if count > 1]
    if twice or not questions or (split is None and len(splits) > 1):
        got = f"the index {twice[0]!r} twice" if twice else f"splits {sorted(splits)} and --split {split}"
        raise AnswerFileError(
            f"{path}: got {got}; expected rows of one split, each once. Name a split that is there by --split."
        )
    return questions, outputs


def plain(text: str) -> str:
    """A text with single blanks alone."""
    return " ".join(text.split())


def _asks(row: dict[str, str], question: SampleRecord | None) -> bool:
    return question is not None and plain(question.prompt) in plain(row["question"])
