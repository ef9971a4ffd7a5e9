"""HallusionBench's scores, from a verdict on each answer. Pure: no files, no model, no judge.

Source: tianyi-lab/HallusionBench 744007c, utils.py and evaluation.py; Guan et al. 2023, HallusionBench,
arXiv:2310.14566.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ...stats import SampleTable
from ..base import Scores, score_ratios
from ..parsing import parse_yes_no

RULES: dict[str, str] = {
    "judge": "official: the judge's reply holds 'incorrect': wrong, else 'correct': right ('not correct' too), else "
    "unclear",
    "judge_words": "ours: the judge's reply by words, 'not correct' is wrong, contradictions are unclear",
    "words": "no judge, as VLMEvalKit: the word yes and not no, or no and not yes, else unclear",
    "strict": "no judge, ours: the first word is yes/no, or exactly one of the two occurs, else unclear",
}
"""Name of a rule → one line on what it does."""
JUDGE_RULES = ("judge", "judge_words")
RECORDED: dict[str, int] = {"0": 0, "1": 1, "2": 2}
"""What the official tool saves of a judge's reply, by its rule → the verdict."""

WRONG, RIGHT, UNCLEAR = 0, 1, 2

_UNDEFINED = {
    "a_acc": "no questions",
    "q_acc": "no questions",
    "f_acc": "no questions about a figure",
    "easy": "no questions about an original figure, or without one",
    "hard": "no questions about an edited figure",
    "yes_bias": "no questions",
    "fp_ratio": "no answer was wrong",
}
_METRICS = tuple(_UNDEFINED)

_NEGATIONS = frozenset("not never hardly cannot isn't wasn't aren't doesn't don't can't isn’t wasn’t aren’t".split())
_REACH = 3  # words between which "not" still negates: "not entirely correct"


class Question(NamedTuple):
    """What names a question, all strings as in the official file; `target` is whether the answer is yes."""

    category: str
    subcategory: str
    visual_input: str
    set_id: str
    figure_id: str
    question_id: str
    target: bool

    @property
    def id(self) -> str:
        """Its name, unique in the official file: VS/chart/0/1/2."""
        return "/".join((self.category, self.subcategory, self.set_id, self.figure_id, self.question_id))

    @property
    def without_figure(self) -> bool:
        """Whether no figure is shown, so that not to know is right: figure 0 of a visual supplement."""
        return self.category == "VS" and int(self.figure_id) == 0


def read_verdict(text: str, rule: str, target: bool) -> int:
    """Whether an answer is right.

    Args:
        text: the judge's reply, or what is `RECORDED` of it, for the rules `judge` and `judge_words`; the model's
            answer for the others.
        rule: a name of `RULES`.
        target: whether the true answer is yes; the judge has compared already.

    Returns:
        0 for wrong, 1 for right, 2 for unclear.
    """
    if rule in JUDGE_RULES:
        recorded = RECORDED.get(text.strip())
        return _JUDGES[rule](text) if recorded is None else recorded
    answer = parse_yes_no(text, "vlmevalkit" if rule == "words" else rule)
    if answer is None:
        return UNCLEAR
    return RIGHT if (answer == "yes") == target else WRONG


def score_verdicts(verdicts: Iterable[tuple[Question, int]]) -> Scores:
    """The scores, from a verdict on each question.

    A question is correct if its verdict is right, or unclear where no figure is shown. Then, as fractions:
    `a_acc` = correct questions / questions. Shares of groups all of whose questions are correct: `q_acc` of groups
    (category, subcategory, set, question), `f_acc` of (category, subcategory, set, figure) without figure 0 of visual
    supplements; `easy` and `hard` of the groups of `q_acc`, over the questions with `visual_input` other than 2 or
    equal to 2. Though printed as accuracies these two are not shares of questions.
    `yes_bias` = (answers yes - true answers yes) / questions, -1 to 1, where a question counts as answered yes if it is
    correct and the truth is yes, or neither. `fp_ratio` = wrong questions with the true answer no / wrong questions.
    `overall` = mean of a_acc, q_acc and f_acc, as on the leaderboard.

    Intervals: of a bootstrap over sets, which hold whole groups and figures.
    """
    by_set: dict[tuple[str, str, str], list[tuple[Question, bool]]] = {}
    counts = {"n": 0, "correct": 0, "wrong": 0, "unclear": 0}
    for question, verdict in verdicts:
        correct = verdict == RIGHT or (verdict == UNCLEAR and question.without_figure)
        counts["n"] += 1
        counts["correct" if correct else "wrong"] += 1
        counts["unclear"] += verdict == UNCLEAR
        by_set.setdefault((question.category, question.subcategory, question.set_id), []).append((question, correct))
    rows = np.array([_count(rows) for rows in by_set.values()], dtype=np.float64).reshape(-1, len(_METRICS), 2)
    names = ["/".join(name) for name in by_set]
    table = SampleTable(
        ids=names,
        images=names,
        metrics=_METRICS,
        numerators=rows[:, :, 0],
        denominators=rows[:, :, 1],
        correct=rows[:, 0, 0] == rows[:, 0, 1],
        answers=[None] * len(names),
    )
    scores = score_ratios(table, _UNDEFINED)
    mean = [scores.metrics[name] for name in ("a_acc", "q_acc", "f_acc")]
    defined = [value for value in mean if value is not None]
    reasons = dict(scores.reasons)
    if len(defined) < len(mean):
        reasons["overall"] = "one of a_acc, q_acc and f_acc is undefined"
    totals = rows.sum(axis=0).astype(int).tolist()
    groups = {"question_groups": "q_acc", "figures": "f_acc", "easy_groups": "easy", "hard_groups": "hard"}
    for name, metric in groups.items():
        counts[f"{name}_correct"], counts[name] = totals[_METRICS.index(metric)]
    overall = sum(defined) / len(mean) if len(defined) == len(mean) else None
    return Scores(
        metrics={**scores.metrics, "overall": overall},
        counts={name: int(count) for name, count in counts.items()},
        intervals=scores.intervals,
        reasons=reasons,
    )


def _count(rows: Sequence[tuple[Question, bool]]) -> list[tuple[int, int]]:
    """What one set contributes to each metric: above and below the line."""
    wrong = [question for question, correct in rows if not correct]
    answered_yes = sum(correct == question.target for question, correct in rows)
    return [
        (sum(correct for _, correct in rows), len(rows)),
        _whole((question.question_id, correct) for question, correct in rows),
        _whole((question.figure_id, correct) for question, correct in rows if not question.without_figure),
        _whole((question.question_id, correct) for question, correct in rows if question.visual_input != "2"),
        _whole((question.question_id, correct) for question, correct in rows if question.visual_input == "2"),
        (answered_yes - sum(question.target for question, _ in rows), len(rows)),
        (sum(not question.target for question in wrong), len(wrong)),
    ]


def _whole(members: Iterable[tuple[str, bool]]) -> tuple[int, int]:
    """How many groups have only correct members, and how many there are."""
    groups: dict[str, bool] = {}
    for name, correct in members:
        groups[name] = groups.get(name, True) and correct
    return sum(groups.values()), len(groups)


def _judge(reply: str) -> int:
    text = reply.lower()
    if "incorrect" in text:
        return WRONG
    return RIGHT if "correct" in text else UNCLEAR


def _judge_words(reply: str) -> int:
    words = re.findall(r"\w+(?:['’]\w+)*", reply.lower())
    found = set()
    for place, word in enumerate(words):
        if word in ("correct", "incorrect"):
            negated = bool(_NEGATIONS.intersection(words[max(0, place - _REACH) : place]))
            found.add(RIGHT if (word == "correct") != negated else WRONG)
        elif word == "unclear":
            found.add(UNCLEAR)
    return found.pop() if len(found) == 1 else UNCLEAR


_JUDGES: dict[str, Callable[[str], int]] = {"judge": _judge, "judge_words": _judge_words}
