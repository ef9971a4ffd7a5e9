"""What every scorer does: read files in a benchmark's official formats, and score the answers in them."""

from __future__ import annotations

import argparse
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from ..tasks.base import Scores


class AnswerFileError(ValueError):
    """A file cannot be read as what it should be, or the answers in it are not those to the questions."""


class RepeatedNameError(AnswerFileError):
    """An object in a file has a name twice, as one by id has where a question is answered twice."""


class Scored(NamedTuple):
    """What came out.

    Attributes:
        task: name of the task, or of its split.
        rule: the rule that read the answers.
        scores: metrics, counts, intervals, reasons and units.
        notes: lines to print below the table, such as how many answers were missing.
    """

    task: str
    rule: str
    scores: Scores
    notes: Sequence[str] = ()


class Scorer(ABC):
    """Scores answers that any tool produced."""

    summary: ClassVar[str]
    """One line for --help, with what it was checked against."""

    @abstractmethod
    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the files and the rule. `--allow-missing` and `--json` are there already."""

    @abstractmethod
    def score(self, options: argparse.Namespace) -> Scored:
        """Read and score.

        Raises:
            AnswerFileError: for a file that cannot be read, or answers that do not match the questions.
        """


def read_rows(path: Path) -> list[Any]:
    """The rows of a JSON array, or of JSON lines, whatever the file is called; blank lines are no rows.

    Raises:
        AnswerFileError: naming the file and the first line that is no JSON.
    """
    text = read_text(path)
    if text.lstrip().startswith("["):
        rows = _parse(text, path, once=False)  # not read again: it may be a pipe
        return rows if isinstance(rows, list) else [rows]
    rows = []
    # Not splitlines(): a JSON string may hold U+2028 and its like as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise AnswerFileError(
                    f"{path}, line {number} is no JSON: got {line[:60]!r}; expected one JSON value per line, or a JSON "
                    f"array. {error}."
                ) from error
    return rows


def read_json(path: Path, once: bool = False) -> Any:
    """The one JSON value of a file.

    Args:
        path: the file.
        once: whether an object that has a name twice is an error; otherwise its last value counts.

    Raises:
        RepeatedNameError: naming the file and the name.
        AnswerFileError: naming the file and the place.
    """
    return _parse(read_text(path), path, once)


def read_text(path: Path) -> str:
    """A file's text, in UTF-8, with or without a byte order mark.

    Raises:
        AnswerFileError: if there is no such file, or it is not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise AnswerFileError(f"cannot read {path}: got {error.strerror}; expected a file. Check the path.") from error
    except UnicodeDecodeError as error:
        raise AnswerFileError(f"{path} is not text: got {error}; expected UTF-8. Save it as UTF-8.") from error


def field_of(row: Any, name: str, path: Path, number: int, kind: type | tuple[type, ...] = str) -> Any:
    """The field of a row, which must be an object that has it.

    Raises:
        AnswerFileError: naming the file and the row, counted from 1.
    """
    if not isinstance(row, dict) or name not in row or not isinstance(row[name], kind) or isinstance(row[name], bool):
        wanted = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise AnswerFileError(
            f"{path}, row {number}: got {json.dumps(row)[:80]}; expected an object with a field {name!r} ({wanted}). "
            "See --help for the format."
        )
    return row[name]


def match_ids(expected: Iterable[Any], found: Iterable[Any], path: Path, allow_missing: bool) -> list[str]:
    """Check that there is one answer to each question.

    Args:
        expected: ids of the questions, each once.
        found: ids of the answers.
        path: the file of answers, for the error.
        allow_missing: whether questions may go without an answer; never an answer without a question, or two.

    Returns:
        Notes: one line if answers are missing.

    Raises:
        AnswerFileError: naming the first of those that are wrong.
    """
    wanted, counts = list(expected), Counter(found)
    known = set(wanted)
    wrong = {
        "answered twice": [one for one, count in counts.items() if count > 1],
        "of no question": [one for one in counts if one not in known],
        "missing": [one for one in wanted if one not in counts],
    }
    for what, ids in wrong.items():
        if ids and not (what == "missing" and allow_missing):
            shown = ", ".join(map(repr, ids[:5])) + (", ..." if len(ids) > 5 else "")
            hint = " Give --allow-missing to score the others." if what == "missing" else " Repair the file."
            raise AnswerFileError(
                f"{path}: got {len(ids)} ids {what}: {shown}; expected one answer to each of {len(wanted)} questions."
                f"{hint}"
            )
    missing = len(wrong["missing"])
    return [f"{missing} of {len(wanted)} questions have no answer and are not scored"] if missing else []


def _parse(text: str, path: Path, once: bool) -> Any:
    def unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            name = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            raise RepeatedNameError(f"{path}: got {name[:60]!r} twice; expected each name once. Repair the file.")
        return content

    try:
        return json.loads(text, object_pairs_hook=unrepeated if once else None)
    except AnswerFileError:
        raise
    except (ValueError, RecursionError) as error:
        raise AnswerFileError(
            f"{path} is no JSON: got an error at {error}; expected one JSON value. Repair it."
        ) from error
