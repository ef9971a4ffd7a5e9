"""MME's answers as lmms-eval and VLMEvalKit leave them: those of all tasks in one file."""

from __future__ import annotations

from pathlib import Path

from ..harnesses import FORMS, answer_rows, is_of_vlmevalkit, kept_by_lmms_eval, said_to_lmms_eval, texts_of
from ..parsing import parse_yes_no
from ..scoring import AnswerFileError, field_of
from .rule import TASK_NAMES, Answer

_KEPT = ("mme_perception_score", "mme_cognition_score")


def answers_of_file(path: Path, rule: str) -> dict[str, list[Answer]]:
    """Task → its answers, in the order of MME's tasks.

    Args:
        path: the file.
        rule: how responses are read.

    Raises:
        DataFileError: for a row of another form, a task that MME has not, or a true answer that is neither yes nor no.
    """
    found: dict[str, list[Answer]] = {name: [] for name in TASK_NAMES}
    for number, row in enumerate(answer_rows(path), start=1):
        kept = kept_by_lmms_eval(row, _KEPT)
        if kept is not None:
            task, image = (str(field_of(kept, name, path, number)) for name in ("category", "question_id"))
            target, response = str(row.get("target")), said_to_lmms_eval(row, path, number)
        elif is_of_vlmevalkit(row):
            names = ("category", "image_path", "answer", "prediction")
            task, image, target, response = texts_of(row, names, path, number)
        else:
            raise AnswerFileError(
                f"{path}, row {number}: got {str(row)[:80]}; expected {FORMS}, of MME. See --results."
            )
        target = target.strip().rstrip(".").lower()
        if task not in found or target not in ("yes", "no"):
            raise AnswerFileError(
                f"{path}, row {number}: got task {task[:40]!r} and the true answer {target[:20]!r}; expected one of "
                f"{', '.join(TASK_NAMES)}, and yes or no. Check the file."
            )
        found[task].append(Answer(image, target, parse_yes_no(response, rule)))
    return {name: answers for name, answers in found.items() if answers}
