"""What every scorer does: read files in a benchmark's official formats, and score the answers in them."""

from __future__ import annotations

import argparse
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from scr import DataFileError

from ..records import Found
from .base import Scores


class AnswerFileError(DataFileError):
    """A file cannot be read as what it should be, or the answers in it are not those to the questions."""


class Scored(NamedTuple):
    """What came out.

    Attributes:
        task: name of the task, or of its split.
        rule: the rule that read the answers.
        scores: metrics, counts, intervals, reasons and units.
        notes: lines to print below the table, such as how many answers were missing.
        details: id of a caption → what was found in it, for the captions whose details were asked for.
    """

    task: str
    rule: str
    scores: Scores
    notes: Sequence[str] = ()
    details: Mapping[str, Found] = MappingProxyType({})


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
            DataFileError: for a file that cannot be read, or answers that do not match the questions.
        """


def field_of(row: Any, name: str, path: Path, number: int, kind: type | tuple[type, ...] = str) -> Any:
    """The field of a row, which must be an object that has it.

    Raises:
        DataFileError: naming the file and the row, counted from 1.
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
        DataFileError: naming the first of those that are wrong.
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
