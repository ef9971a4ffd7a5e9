"""`score vqav2`: short answers against ten people's."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scr.files import read_json, read_rows

from ...stats import SampleTable
from ..base import Scores, score_ratios
from ..scoring import AnswerFileError, Scored, Scorer, field_of, match_ids
from .rule import RULES, accuracy

_UNDEFINED = "no question of this kind was answered"


class _Question(NamedTuple):
    """A question, from both official files: its image, its two types, and what people said."""

    image: str
    question_type: str
    answer_type: str
    people: Sequence[Mapping[str, Any]]


class VQAv2Scorer(Scorer):
    """The official accuracy, overall, by type of answer and by type of question.

    Metrics: `accuracy`, `accuracy_<answer type>` and `accuracy_question_<question type>`, the types named as in the
    annotations. Unrounded, where the official tool rounds to two digits of a per cent.
    """

    summary = "VQAv2: accuracy against ten people (vqaEval.py written out; its parts checked against LAVIS 1.0.2)"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """`--questions`, `--annotations`, `--answers` and `--rule`."""
        for name, content in (
            ("questions", 'official questions, {"questions": [{"question_id", "image_id", "question"}]}'),
            ("annotations", 'official annotations, {"annotations": [{"question_id", "answers", ...}]}'),
            ("answers", 'JSON array or JSON lines of {"question_id", "answer"}'),
        ):
            parser.add_argument(f"--{name}", type=Path, required=True, metavar="FILE", help=content)
        rules = "; ".join(f"{name}: {line}" for name, line in RULES.items())
        parser.add_argument("--rule", choices=list(RULES), default="vqav2", help=f"{rules} (vqav2)")

    def score(self, options: argparse.Namespace) -> Scored:
        """Read and score.

        Raises:
            DataFileError: for a file that cannot be read, or where questions, annotations and answers do not match.
        """
        questions = _read_questions(options.questions, options.annotations)
        rows = [
            (_id(row, options.answers, at), field_of(row, "answer", options.answers, at))
            for at, row in enumerate(read_rows(options.answers), start=1)
        ]
        notes = match_ids(questions, [name for name, _ in rows], options.answers, options.allow_missing)
        answers = dict(rows)
        answered = {name: one for name, one in questions.items() if name in answers}
        values = [accuracy(answers[name], one.people, options.rule) for name, one in answered.items()]
        scores = _scores(list(answered), list(answered.values()), values, len(questions) - len(answered))
        return Scored("vqav2", options.rule, scores, [*notes, "intervals: by images; none by type of question"])


def _scores(ids: Sequence[str], questions: Sequence[_Question], values: Sequence[float], missing: int) -> Scores:
    values_, answer_types = np.array(values, dtype=np.float64), sorted({one.answer_type for one in questions})
    masks = [np.ones(len(ids)), *(_is(kind, (one.answer_type for one in questions)) for kind in answer_types)]
    names = ("accuracy", *(f"accuracy_{kind}" for kind in answer_types))
    table = SampleTable(
        ids=ids,
        images=[one.image for one in questions],
        metrics=names,
        numerators=np.stack([values_ * mask for mask in masks], axis=1),
        denominators=np.stack(masks, axis=1),
        correct=values_ == 1.0,
        answers=[None] * len(ids),
    )
    scores = score_ratios(table, dict.fromkeys(names, _UNDEFINED))
    metrics = dict(scores.metrics)
    for kind in sorted({one.question_type for one in questions}):
        mask = _is(kind, (one.question_type for one in questions))
        metrics[f"accuracy_question_{kind}"] = float(values_ @ mask / mask.sum())
    counts = {"n": len(ids), **({"missing": missing} if missing else {})}
    counts |= {f"n_{kind}": int(mask.sum()) for kind, mask in zip(answer_types, masks[1:], strict=True)}
    return Scores(metrics=metrics, counts=counts, intervals=scores.intervals, reasons=scores.reasons)


def _is(kind: str, kinds: Iterable[str]) -> np.ndarray:
    return np.array([one == kind for one in kinds], dtype=np.float64)


def _read_questions(questions: Path, annotations: Path) -> dict[str, _Question]:
    asked: dict[str, None] = {}
    for at, row in enumerate(_list(questions, "questions"), start=1):
        name = _id(row, questions, at)
        if name in asked:
            raise AnswerFileError(
                f"{questions}, row {at}: got the question_id {name!r} again; expected each once. Repair the file."
            )
        asked[name] = None
    found: list[tuple[str, _Question]] = []
    for at, row in enumerate(_list(annotations, "annotations"), start=1):
        people = field_of(row, "answers", annotations, at, list)
        for one in people:
            field_of(one, "answer", annotations, at)
        if not people:
            raise AnswerFileError(
                f"{annotations}, row {at}: got no answers of people; expected ten. Use the official annotations."
            )
        one = _Question(
            image=str(field_of(row, "image_id", annotations, at, (int, str))),
            question_type=field_of(row, "question_type", annotations, at),
            answer_type=field_of(row, "answer_type", annotations, at),
            people=people,
        )
        found.append((_id(row, annotations, at), one))
    match_ids(asked, [name for name, _ in found], annotations, allow_missing=False)
    return dict(found)


def _list(path: Path, name: str) -> list[Any]:
    content = read_json(path)
    rows = content.get(name) if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise AnswerFileError(f'{path}: got no list {name!r}; expected {{"{name}": [...]}}. Use the official file.')
    return rows


def _id(row: Any, path: Path, number: int) -> str:
    return str(field_of(row, "question_id", path, number, (int, str)))
