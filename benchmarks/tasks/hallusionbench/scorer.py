"""`score hallusionbench`: the official questions, answered, judged or read without a judge."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from scr.files import read_rows

from ..harnesses import FORMS, answer_rows, is_of_vlmevalkit, kept_by_lmms_eval, texts_of
from ..scoring import AnswerFileError, Scored, Scorer, field_of, match_ids
from .rule import JUDGE_RULES, RECORDED, RULES, UNCLEAR, Question, read_verdict, score_verdicts

_NAMES = ("category", "subcategory", "visual_input", "set_id", "figure_id", "question_id")
_REPLY, _SAVED = "judge_reply", "gpt4v_output_gpt_check"
_DIGITS = 9  # of a figure's number; the official ones have one


class HallusionBenchScorer(Scorer):
    """Scores answers in the official format.

    The questions are the official file, HallusionBench.json; each row of the answers names its question as there and
    holds the answer in `model_prediction` and, where a judge was asked, its reply in `judge_reply`, or the verdict that
    the official tool saves, "0", "1" or "2", in `gpt4v_output_gpt_check`. The reply counts where there are both.

    The judge is asked elsewhere: it is given the question, `gt_answer_details` and the answer, and says whether the
    answer is correct, incorrect or unclear.
    """

    summary = "HallusionBench: with a judge's replies (official), or by yes and no; checked on the official questions"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare `--questions`, `--answers` and `--rule`."""
        parser.add_argument("--questions", type=Path, required=True, metavar="FILE", help="HallusionBench.json")
        parser.add_argument(
            "--answers",
            type=Path,
            required=True,
            metavar="FILE",
            help=f"its rows with model_prediction, and where a judge was asked {_REPLY}, its words, or {_SAVED}, the 0 "
            f"(incorrect), 1 (correct) or 2 (unclear) that the official tool saves; JSON or JSON lines; or {FORMS}",
        )
        lines = "; ".join(f"{name}, {line}" for name, line in RULES.items())
        parser.add_argument("--rule", choices=tuple(RULES), default="judge", help=f"{lines} (judge)")

    def score(self, options: argparse.Namespace) -> Scored:
        """Read and score.

        Raises:
            DataFileError: for rows that are none of the format, or answers that do not match the questions.
        """
        questions = read_questions(options.questions)
        rule, path = options.rule, options.answers
        given = [_official(row, path, number) for number, row in enumerate(answer_rows(path), start=1)]
        rows = [(question_id(row, path, number), row) for number, row in enumerate(given, start=1)]
        try:
            notes = match_ids(questions, (name for name, _ in rows), path, options.allow_missing)
        except AnswerFileError as error:
            answered = {name for name, _ in rows}
            with_image = {name for name, question in questions.items() if question.visual_input != "0"}
            if len(answered) == len(rows) and with_image <= answered < questions.keys():
                hint = " The questions with an image are all there, which is the subset that other tools score."
                raise AnswerFileError(f"{error}{hint}") from error
            raise
        texts = [_text(row, rule, path, number) for number, (_, row) in enumerate(rows, start=1)]
        judged = [
            (questions[name], read_verdict(text, rule, questions[name].target))
            for (name, _), text in zip(rows, texts, strict=True)
        ]
        if rule in JUDGE_RULES:
            recorded = sum(text.strip() in RECORDED for text in texts)
            if recorded:
                notes.append(
                    f"{recorded} of {len(texts)} verdicts are recorded ones, 0, 1 or 2, and are taken as they are"
                )
        if judged and all(verdict == UNCLEAR for _, verdict in judged):
            notes.append(
                f"every verdict is unclear, such as that of {texts[0][:60]!r}: is this what rule {rule!r} reads?"
            )
        if len(rows) < len(questions):
            notes.append(_about_subset(list(questions.values()), {name for name, _ in rows}))
        if rule not in JUDGE_RULES:
            notes.append(f"rule {rule}: no judge was asked; not comparable with judged scores")
        scores = score_verdicts(judged)
        if len(rows) < len(questions):
            scores = dataclasses.replace(scores, counts={**scores.counts, "missing": len(questions) - len(rows)})
        return Scored("hallusionbench", rule, scores, notes)


def _official(row: Any, path: Path, number: int) -> Any:
    """A row of another tool as the official one; any other as it is."""
    kept = kept_by_lmms_eval(row, ("aAcc",))
    if kept is not None:
        return dict(kept)
    if not is_of_vlmevalkit(row):
        return row
    index, prediction = texts_of(row, ("index", "prediction"), path, number)
    # "VD_illusion_1_0_0_0"; a name of another form has other parts, which are found to be no question.
    return {**dict(zip(_NAMES, index.split("_"), strict=False)), "model_prediction": prediction}


def _text(row: Any, rule: str, path: Path, number: int) -> str:
    """What a rule reads of a row.

    Raises:
        DataFileError: naming the file, the row and the field.
    """
    if rule not in JUDGE_RULES:
        return str(field_of(row, "model_prediction", path, number))
    if _REPLY not in row and _SAVED not in row:
        raise AnswerFileError(
            f"{path}, row {number}: got neither {_REPLY} nor {_SAVED} for {question_id(row, path, number)}; expected "
            f"what the judge said, or 0, 1 or 2, for rule {rule!r}. Add one, or give --rule words or --rule strict, "
            "which need no judge."
        )
    field = _REPLY if _REPLY in row else _SAVED
    text = str(field_of(row, field, path, number, (str, int)))
    if text.strip() not in RECORDED and (field == _SAVED or not isinstance(row[field], str)):
        raise AnswerFileError(
            f"{path}, row {number}: got {row[field]!r:.80} in {field}; expected 0, 1 or 2"
            f"{'' if field == _SAVED else ', or a text'}. Repair the file."
        )
    return text


def question_id(row: Any, path: Path, number: int) -> str:
    """The name of the question in a row of answers.

    Raises:
        DataFileError: naming the file, the row and the field.
    """
    texts = {name: str(field_of(row, name, path, number, (str, int))) for name in _NAMES}
    return Question(**texts, target=False).id


def read_questions(path: Path) -> dict[str, Question]:
    """Id → question of the official file, in its order.

    Raises:
        DataFileError: naming the file and the row.
    """
    questions: dict[str, Question] = {}
    for number, row in enumerate(read_rows(path), start=1):
        texts = {name: str(field_of(row, name, path, number, (str, int))) for name in _NAMES}
        target = str(field_of(row, "gt_answer", path, number, (str, int)))
        known = {"category": ("VS", "VD"), "visual_input": ("0", "1", "2"), "gt_answer": ("0", "1")}
        for name, values in known.items():
            found = {**texts, "gt_answer": target}[name]
            if found not in values:
                raise AnswerFileError(
                    f"{path}, row {number}: got {name} {found!r}; expected {' or '.join(values)}. "
                    "Use the official HallusionBench.json."
                )
        if not texts["figure_id"].isdecimal() or len(texts["figure_id"]) > _DIGITS:
            raise AnswerFileError(
                f"{path}, row {number}: got figure_id {texts['figure_id'][:60]!r}; expected a number. "
                "Use the official HallusionBench.json."
            )
        question = Question(**texts, target=target == "1")
        if question.id in questions:
            raise AnswerFileError(
                f"{path}, row {number}: got {question.id} a second time; expected each question once. Repair the file."
            )
        questions[question.id] = question
    return questions


def _about_subset(questions: list[Question], answered: set[str]) -> str:
    with_image = {question.id for question in questions if question.visual_input != "0"}
    if answered == with_image:
        return (
            f"exactly the {len(with_image)} questions with an image are answered, the subset that VLMEvalKit and "
            f"lmms-eval score; not comparable with scores on all {len(questions)}"
        )
    return "groups and figures are those of the answered questions alone; not comparable with scores on all"
