"""Answers as other tools leave them: lmms-eval's samples (`*_samples_*.jsonl`), and tables of VLMEvalKit.

Read from the code of lmms-eval 0.7.3 and of VLMEvalKit (ms-vlmeval 0.0.20). A sample of lmms-eval has no question's
row any more, but what its task has kept for each metric, which names the question; a table of VLMEvalKit has the
question's columns and a `prediction`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scr.files import read_rows

from .scoring import AnswerFileError, field_of
from .spreadsheet import SUFFIXES, read_table

FORMS = "lmms-eval's samples, or a table of VLMEvalKit (.xlsx, .tsv)"
"""What the help of a scorer says that it reads, too."""


def answer_rows(path: Path) -> list[Any]:
    """The rows of a file of answers: JSON, JSON lines, or a table by the name of the file.

    Raises:
        DataFileError: for a file that cannot be read.
    """
    return list(read_table(path)) if path.suffix.lower() in SUFFIXES else read_rows(path)


def kept_by_lmms_eval(row: Any, metrics: Sequence[str]) -> Mapping[str, Any] | None:
    """What a task of lmms-eval has kept of a sample for the first of these metrics that is there; None of another row.

    Args:
        row: of a file of answers.
        metrics: names of the task's metrics.
    """
    if not isinstance(row, dict) or "doc_id" not in row or "filtered_resps" not in row:
        return None
    return next((row[name] for name in metrics if isinstance(row.get(name), dict)), None)


def said_to_lmms_eval(row: Mapping[str, Any], path: Path, number: int) -> str:
    """The answer in a sample of lmms-eval, filtered as its task does.

    Raises:
        DataFileError: for a sample of several answers, or of none.
    """
    given = row["filtered_resps"]
    if isinstance(given, list) and len(given) == 1:
        (given,) = given
    if not isinstance(given, str):
        raise AnswerFileError(
            f"{path}, row {number}: got {str(given)[:60]!r} in filtered_resps; expected one text. Score a run without "
            "repeats."
        )
    return given


def is_of_vlmevalkit(row: Any) -> bool:
    """Whether it is a row of a table of VLMEvalKit's."""
    return isinstance(row, dict) and {"index", "prediction"} <= row.keys()


def texts_of(row: Mapping[str, Any], names: Sequence[str], path: Path, number: int) -> list[str]:
    """Fields of a row of VLMEvalKit as texts, which JSON may hold as numbers.

    Raises:
        DataFileError: naming the row and the first that is not there.
    """
    return [str(field_of(row, name, path, number, (str, int, float))) for name in names]
