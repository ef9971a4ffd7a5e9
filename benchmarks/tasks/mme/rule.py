"""MME's scores: two yes/no questions per image, one score per task, and their sums. Pure: no files, no model.

Source: calculation.py in tools/eval_tool of BradyFU/Awesome-Multimodal-Large-Language-Models (branch Evaluation); Fu et
al. 2023, MME: A Comprehensive Evaluation Benchmark for Multimodal Large Language Models, arXiv:2306.13394.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...stats import SEED, percentile_interval, resampled_sums
from ..base import Scores

PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
TASK_NAMES = (*PERCEPTION, *COGNITION)

SUMS: dict[str, tuple[str, ...]] = {
    "perception": PERCEPTION,
    "cognition": COGNITION,
    "hallucination_subset": PERCEPTION[:4],
}
"""Name of a sum of scores → the tasks in it. The last is what papers on hallucination report."""

TASK_UNIT = "points of 200"


class Answer(NamedTuple):
    """An answer to one question: the image's name, the true answer ("yes" or "no"), what was read (None: unparsed)."""

    image: str
    target: str
    answer: str | None

    @property
    def correct(self) -> bool:
        """Whether the right answer was read; an unparsed answer is wrong."""
        return self.answer == self.target


Pair = tuple[Answer, Answer]


def score_tasks(tasks: Mapping[str, Sequence[Pair]]) -> Scores:
    """The scores of all tasks.

    Per task: acc = right answers / questions, acc+ = pairs with both right / pairs, score = 100 acc + 100 acc+
    ("points of 200"). Precision and recall ("yes" is positive) are over the parsed answers alone. `perception` (of
    2000), `cognition` and `hallucination_subset` (of 800) are sums of scores.

    A task none of whose answers can be read scores 0, as each of them is wrong; its precision and recall are undefined.
    The official tool ends with an error there.

    Args:
        tasks: task → its pairs. A task without pairs has no score, nor has a sum that it belongs to.

    Returns:
        Metrics: the sums; each task's score under its own name; then `<task>_acc`, `<task>_acc_plus`,
        `<task>_precision`, `<task>_recall`. Intervals: of a bootstrap over pairs, within each task.
    """
    metrics: dict[str, float | None] = dict.fromkeys((*SUMS, *TASK_NAMES))
    counts = Counter[str]()
    intervals: dict[str, list[float]] = {}
    reasons: dict[str, str] = {}
    resampled: dict[str, NDArray[np.float64]] = {}
    for name in TASK_NAMES:
        pairs = tasks.get(name, ())
        if not pairs:
            reasons.update({one: f"no answers to the task {name}" for one in (name, *_parts(name))})
            metrics.update(dict.fromkeys(_parts(name)))
            continue
        found = _score_task(name, pairs)
        metrics.update(found.metrics)
        reasons.update(found.reasons)
        counts.update(found.counts)
        draws = _resample(pairs, TASK_NAMES.index(name))
        resampled[name] = draws["score"]
        for one, values in zip((name, f"{name}_acc", f"{name}_acc_plus"), draws.values(), strict=True):
            _add_interval(intervals, one, values)
    for name, parts in SUMS.items():
        missing = [part for part in parts if metrics[part] is None]
        if missing:
            reasons[name] = f"no answers to {', '.join(missing)}"
            continue
        metrics[name] = sum(metrics[part] or 0.0 for part in parts)
        if all(len(resampled[part]) for part in parts):
            _add_interval(intervals, name, np.sum([resampled[part] for part in parts], axis=0))
    totals = {name: counts[name] for name in ("n", "pairs", "correct", "pairs_correct", "unparsed")}
    per_task = {f"unparsed_{name}": counts[f"unparsed_{name}"] for name in TASK_NAMES if tasks.get(name)}
    units = {name: f"points of {200 * len(parts)}" for name, parts in SUMS.items()} | dict.fromkeys(
        TASK_NAMES, TASK_UNIT
    )
    return Scores(metrics=metrics, counts={**totals, **per_task}, intervals=intervals, reasons=reasons, units=units)


def pairs_by_line(answers: Sequence[Answer]) -> list[Pair]:
    """Pair each odd line with the next, whatever their images, as the official tool does.

    Raises:
        ValueError: for an odd number of answers.
    """
    if len(answers) % 2:
        raise ValueError(
            f"lines do not come in pairs: got {len(answers)} answers; expected two per image. "
            "Add the missing answer, or pair by image."
        )
    return list(zip(answers[::2], answers[1::2], strict=True))


def pairs_by_image(answers: Iterable[Answer], allow_missing: bool = False) -> list[Pair]:
    """Pair the two answers about one image, wherever they stand.

    Args:
        answers: the answers to one task.
        allow_missing: leave out an image with one answer.

    Raises:
        ValueError: for an image with more than two answers, or with one.
    """
    by_image: dict[str, list[Answer]] = {}
    for answer in answers:
        by_image.setdefault(answer.image, []).append(answer)
    pairs = []
    for image, found in by_image.items():
        if len(found) == 2:
            pairs.append((found[0], found[1]))
        elif len(found) > 2 or not allow_missing:
            raise ValueError(f"an image has no pair of answers: got {len(found)} of {image!r}; expected 2. Repair it.")
    return pairs


def _parts(name: str) -> tuple[str, ...]:
    return tuple(f"{name}_{part}" for part in ("acc", "acc_plus", "precision", "recall"))


def _score_task(name: str, pairs: Sequence[Pair]) -> Scores:
    answers = [answer for pair in pairs for answer in pair]
    outcomes = Counter((answer.target, answer.answer) for answer in answers)
    correct, both = sum(answer.correct for answer in answers), sum(a.correct and b.correct for a, b in pairs)
    true, false, missed = outcomes["yes", "yes"], outcomes["no", "yes"], outcomes["yes", "no"]
    acc, acc_plus = correct / len(answers), both / len(pairs)
    metrics: dict[str, float | None] = {
        name: 100 * acc + 100 * acc_plus,
        f"{name}_acc": acc,
        f"{name}_acc_plus": acc_plus,
        f"{name}_precision": true / (true + false) if true + false else None,
        f"{name}_recall": true / (true + missed) if true + missed else None,
    }
    unparsed = sum(answer.answer is None for answer in answers)
    nothing = "no answer could be read as yes or no" if unparsed == len(answers) else None
    reasons = {}
    if metrics[f"{name}_precision"] is None:
        reasons[f"{name}_precision"] = nothing or "no answer was yes"
    if metrics[f"{name}_recall"] is None:
        reasons[f"{name}_recall"] = nothing or "no question with the answer yes was answered"
    counts = {"n": len(answers), "pairs": len(pairs), "correct": correct, "pairs_correct": both, "unparsed": unparsed}
    return Scores(metrics=metrics, counts={**counts, f"unparsed_{name}": unparsed}, reasons=reasons)


def _resample(pairs: Sequence[Pair], stream: int) -> dict[str, NDArray[np.float64]]:
    """Score, acc and acc+ of each resample of the pairs, (resamples,) each; (0,) for fewer than two pairs.

    Each task has a stream of its own: with one for all, tasks of equal size would be drawn alike and their sum would
    look too uncertain.
    """
    acc = np.array([(a.correct + b.correct) / 2 for a, b in pairs])
    both = np.array([a.correct and b.correct for a, b in pairs], dtype=np.float64)
    sums = np.stack([100 * acc + 100 * both, acc, both], axis=1)
    units = [str(number) for number in range(len(pairs))]
    values = resampled_sums(sums, units, seed=[SEED, stream]) / len(pairs)
    return {"score": values[:, 0], "acc": values[:, 1], "acc_plus": values[:, 2]}


def _add_interval(intervals: dict[str, list[float]], name: str, values: NDArray[np.float64]) -> None:
    interval = percentile_interval(values)
    if interval is not None:
        intervals[name] = list(interval)
