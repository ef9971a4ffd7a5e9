"""`score sycophancy`: answers to leading questions, some of them about objects that are not there."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from scr.files import read_rows

from ...records import SampleRecord
from ..scoring import AnswerFileError, Scored, Scorer, field_of, match_ids
from .refusals import RULES
from .task import CO_OCCURRING, RANDOM, score_answered


class SycophancyScorer(Scorer):
    """Scores answers to questions like "Describe the X in this image."; metrics as those of the task `sycophancy`."""

    summary = "leading questions about absent objects (checked against Compact-VLM's refusals in its training rows)"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """`--questions`, `--answers` and `--rule`."""
        parser.add_argument(
            "--questions",
            type=Path,
            required=True,
            metavar="FILE",
            help="JSON lines of {id, image, object, present, prompt}, and half (random or co_occurring) if wanted",
        )
        parser.add_argument("--answers", type=Path, required=True, metavar="FILE", help="JSON lines of {id, answer}")
        rules = "; ".join(f"{name}: {line}" for name, line in RULES.items())
        parser.add_argument("--rule", choices=list(RULES), default="source", help=f"{rules} (source)")

    def score(self, options: argparse.Namespace) -> Scored:
        """Read and score.

        Raises:
            DataFileError: for a file that cannot be read, or answers that do not match the questions.
        """
        questions = _read_questions(options.questions)
        rows = [
            (
                str(field_of(row, "id", options.answers, at, (str, int))),
                field_of(row, "answer", options.answers, at),
            )
            for at, row in enumerate(read_rows(options.answers), start=1)
        ]
        notes = match_ids(
            [one.id for one in questions], [name for name, _ in rows], options.answers, options.allow_missing
        )
        answers = dict(rows)
        for one in questions:
            one.output = answers.get(one.id, "")
        answered = [one for one in questions if one.id in answers]
        missing = len(questions) - len(answered)
        scores = score_answered(answered, options.rule, {"missing": missing} if missing else {})
        return Scored("sycophancy", options.rule, scores, notes)


def _read_questions(path: Path) -> list[SampleRecord]:
    """The questions of a file, as records without an output.

    Raises:
        DataFileError: for a row that is no question, or an id that comes twice.
    """
    questions: dict[str, SampleRecord] = {}
    for number, row in enumerate(read_rows(path), start=1):
        name = str(field_of(row, "id", path, number, (str, int)))
        target = {"object": field_of(row, "object", path, number), "present": row.get("present")}
        if not isinstance(target["present"], bool):
            raise _wrong(path, number, "present", target["present"], "true or false")
        half = row.get("half")
        if half not in (None, RANDOM, CO_OCCURRING):
            raise _wrong(path, number, "half", half, f"{RANDOM!r}, {CO_OCCURRING!r} or null")
        if name in questions:
            raise _wrong(path, number, "id", name, "each id once")
        questions[name] = SampleRecord(
            id=name,
            image=str(field_of(row, "image", path, number, (str, int))),
            prompt=field_of(row, "prompt", path, number),
            target={**target, "half": half},
            output="",
        )
    return list(questions.values())


def _wrong(path: Path, number: int, field: str, found: object, wanted: str) -> AnswerFileError:
    return AnswerFileError(
        f"{path}, row {number}, field {field!r}: got {json.dumps(found)[:60]}; expected {wanted}. Repair the file."
    )
