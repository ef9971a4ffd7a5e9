"""`score mmvet`: recorded grades of free answers, by the capabilities that a question needs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scr.files import read_json, read_rows

from ...stats import SampleTable, ratio_intervals
from ..base import Scores
from ..scoring import AnswerFileError, Scored, Scorer, field_of, match_ids

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
"""Recognition, text in the image, knowledge, writing, places in space, arithmetic."""

_INSTRUCTION = """\
You grade answers to questions about a picture that you do not see. Compare the given answer with the reference, and \
say how right it is as one number from 0.0 (wrong) to 1.0 (right), in steps of 0.1. Where the reference has parts \
joined by <AND>, every part is needed, and some of them earn a part of the grade; of parts joined by <OR> one is \
enough. More words than needed do no harm; a wrong statement does. Reply with the number alone.
"""
_EXAMPLES = (
    ("How many apples are on the table?", "3 <OR> three", "There are three apples.", "1.0"),
    ("How many apples are on the table?", "3 <OR> three", "Four.", "0.0"),
    ("Which animals are these?", "cat <AND> dog", "A cat on a sofa.", "0.5"),
    ("Which animals are these?", "cat <AND> dog", "A dog and a black cat", "1.0"),
    ("What does the sign say?", "no parking", "It tells drivers to stop.", "0.0"),
)


class Question(NamedTuple):
    """A question of the official file: its image, text, reference answer, and the capabilities that it needs."""

    image: str
    text: str
    reference: str
    capabilities: frozenset[str]


class MMVetScorer(Scorer):
    """Means of grades that someone gave: per capability, per combination of capabilities, and in all.

    Metrics, fractions: `total`; each capability, over all questions that need it; `exactly_<capabilities>`, over the
    questions that need these and no others; `total_std` and `<capability>_std`, the standard deviation over runs of
    grading (population form, as the official script has it).

    Source: yuweihao/MM-Vet acde843, mm-vet_evaluator.py. The official grades are GPT-4's; other graders shift results.
    """

    summary = "MM-Vet: recorded grades by capability; --export writes what to grade (the official formulas by hand)"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """`--data`, `--predictions`, `--grades` and `--export`."""
        parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="the official mm-vet.json")
        parser.add_argument(
            "--predictions",
            type=Path,
            required=True,
            metavar="FILE",
            help='answers, JSON {"v1_0": "text", ...}, or samples.jsonl of a run',
        )
        parser.add_argument(
            "--grades",
            type=Path,
            metavar="FILE",
            help='JSON {"v1_0": 0.5, ...}, a list of grades for several runs, or the official {"score": [...]}',
        )
        parser.add_argument(
            "--export",
            type=Path,
            metavar="FILE",
            help="write one grading prompt per question to a new file, JSON lines",
        )

    def score(self, options: argparse.Namespace) -> Scored:
        """Read and score; without grades, write what to grade.

        Raises:
            DataFileError: for a file that cannot be read or written, or ids that do not match.
        """
        questions = read_questions(options.data)
        predictions = _read_predictions(options.predictions)
        notes = match_ids(questions, list(predictions), options.predictions, options.allow_missing)
        answered = {name: one for name, one in questions.items() if name in predictions}
        if options.export is not None:
            _export(options.export, answered, predictions)
            notes.append(f"{len(answered)} prompts written to {options.export}")
        if options.grades is not None:
            grades = _read_grades(options.grades)
            notes += match_ids(answered, list(grades), options.grades, options.allow_missing)
        elif options.export is not None:
            grades = {}
            notes.append('grade them, and give the grades as JSON {"id": grade}: --grades FILE')
        else:
            raise AnswerFileError(
                "nothing to score: got neither --grades nor --export; expected one of them. Write a grading file with "
                "--export, have it graded, and give the grades."
            )
        graded = {name: one for name, one in answered.items() if name in grades}
        runs = len(next(iter(grades.values()), ()))
        table = np.array([grades[name] for name in graded], dtype=np.float64).reshape(len(graded), runs)
        reason = "no question that needs this was graded" if graded else "no grades were given"
        scores = _scores(graded, table, reason, len(questions) - len(graded))
        return Scored("mmvet", "recorded grades", scores, notes)


def _scores(questions: Mapping[str, Question], grades: np.ndarray, reason: str, missing: int) -> Scores:
    """Means and deviations of (questions, runs) grades."""
    rows = list(questions.values())
    needs = {"total": np.ones(len(rows))}
    needs |= {name: np.array([name in one.capabilities for one in rows], dtype=np.float64) for name in CAPABILITIES}
    sets = sorted({one.capabilities for one in rows}, key=lambda one: (len(one), _joined(one)))
    exactly = {f"exactly_{_joined(one)}": np.array([row.capabilities == one for row in rows], float) for one in sets}
    metrics: dict[str, float | None] = {}
    for name, mask in {**needs, **exactly}.items():
        metrics[name] = float(mask @ grades.mean(axis=1) / mask.sum()) if mask.any() else None
    runs = grades.shape[1] if len(rows) else 0
    if runs > 1:
        for name, mask in needs.items():
            metrics[f"{name}_std"] = float((mask @ grades / mask.sum()).std()) if mask.any() else None
    intervals = {}
    if rows:
        masks = {name: mask for name, mask in needs.items() if mask.any()}
        table = SampleTable(
            ids=list(questions),
            images=[one.image for one in rows],
            metrics=tuple(masks),
            numerators=np.stack([mask * grades.mean(axis=1) for mask in masks.values()], axis=1),
            denominators=np.stack(list(masks.values()), axis=1),
            correct=np.zeros(len(rows), dtype=bool),
            answers=[None] * len(rows),
        )
        intervals = {name: list(interval) for name, interval in ratio_intervals(table).items()}
    return Scores(
        metrics=metrics,
        counts={
            "n": len(rows),
            "missing": missing,
            "runs": runs,
            **{f"n_{name}": int(needs[name].sum()) for name in CAPABILITIES},
        },
        intervals=intervals,
        reasons={name: reason for name, value in metrics.items() if value is None},
    )


def grading_prompt(question: str, reference: str, answer: str) -> str:
    """What a grader is asked: an instruction, graded examples, and the answer to grade. The wording is ours."""
    rows = [*_EXAMPLES, (question, reference, answer, "")]
    parts = [
        f"Question: {one}\nReference: {right}\nAnswer: {said}\nGrade: {grade}".rstrip()
        for one, right, said, grade in rows
    ]
    return "\n\n".join([_INSTRUCTION.strip(), *parts])


def _export(path: Path, questions: Mapping[str, Question], predictions: Mapping[str, str]) -> None:
    lines = [
        json.dumps({"id": name, "prompt": grading_prompt(one.text, one.reference, predictions[name])})
        for name, one in questions.items()
    ]
    try:
        with path.open("x", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    except OSError as error:
        raise AnswerFileError(
            f"cannot write {path}: got {error.strerror}; expected the name of a new file. Choose another."
        ) from error


def read_questions(path: Path) -> dict[str, Question]:
    """Id → question of the official file, in its order.

    Raises:
        DataFileError: naming the file and the row.
    """
    found = {}
    for number, (name, row) in enumerate(_mapping(path).items(), start=1):
        capabilities = field_of(row, "capability", path, number, list)
        strange = [one for one in capabilities if one not in CAPABILITIES]
        if strange or not capabilities:
            raise _wrong(path, f"capabilities of {name!r}", capabilities, f"some of {', '.join(CAPABILITIES)}")
        found[name] = Question(
            image=field_of(row, "imagename", path, number),
            text=field_of(row, "question", path, number),
            reference=field_of(row, "answer", path, number),
            capabilities=frozenset(capabilities),
        )
    return found


def _read_predictions(path: Path) -> dict[str, str]:
    if path.suffix == ".jsonl":
        found: dict[str, str] = {}
        for number, row in enumerate(read_rows(path), start=1):
            name = field_of(row, "id", path, number)
            if name in found:
                raise AnswerFileError(
                    f"{path}, row {number}: got the id {name!r} again; expected each once. Repair the file."
                )
            found[name] = field_of(row, "output", path, number)
        return found
    predictions = _mapping(path)
    for name, text in predictions.items():
        if not isinstance(text, str):
            raise _wrong(path, f"the answer to {name!r}", text, "a text")
    return predictions


def _read_grades(path: Path) -> dict[str, list[float]]:
    """Grades by question, as many for each.

    Raises:
        DataFileError: for what is no grade, or another number of runs than before.
    """
    found: dict[str, list[float]] = {}
    runs: int | None = None
    for name, value in _mapping(path).items():
        given: Any = value.get("score") if isinstance(value, dict) else value
        grades = given if isinstance(given, list) else [given]
        if not grades or not all(_is_grade(one) for one in grades):
            raise _wrong(path, f"the grade of {name!r}", value, "a number from 0 to 1, or a list of them")
        runs = len(grades) if runs is None else runs
        if len(grades) != runs:
            raise _wrong(path, f"the grades of {name!r}", grades, f"{runs} of them, as for the questions before")
        found[name] = [float(one) for one in grades]
    return found


def _is_grade(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _joined(capabilities: frozenset[str]) -> str:
    return "_".join(name for name in CAPABILITIES if name in capabilities)


def _mapping(path: Path) -> dict[str, Any]:
    content = read_json(path, once=True)
    if not isinstance(content, dict):
        raise _wrong(path, "the file", content, 'an object {"<id>": ...}')
    return content


def _wrong(path: Path, what: str, found: Any, wanted: str) -> AnswerFileError:
    return AnswerFileError(f"{path}, {what}: got {json.dumps(found)[:80]}; expected {wanted}. Repair the file.")
