"""AMBER's scores: captions by their nouns, and yes/no questions in which "No" is the positive class. Pure: no files.

Source: junyangwang0410/AMBER 534babf, inference.py; Wang et al. 2023, AMBER: An LLM-free Multi-dimensional Benchmark
for MLLMs Hallucination Evaluation, arXiv:2311.07397.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from scr.reading import Span

from ...records import Found
from ...stats import SampleTable, ratio_intervals
from ..base import Scores
from ..caption_places import as_mention
from .words import Similarity

RULES: dict[str, str] = {
    "amber": "official: denominators start at 0.001, percents are rounded to one digit, F1 of rounded values with a "
    "constant below; what the tool prints",
    "plain": "ours: the same counts without constants and rounding",
}
"""Name of a rule → one line on what it does."""

KINDS: dict[str, tuple[str, ...]] = {
    "discriminative-attribute-state": ("attribute", "attribute_state"),
    "discriminative-attribute-number": ("attribute", "attribute_number"),
    "discriminative-attribute-action": ("attribute", "attribute_action"),
    "discriminative-hallucination": ("existence",),
    "discriminative-relation": ("relation",),
    "relation": ("relation",),
}
"""Type of a question → the suffixes of the metrics that it counts for, beside those without a suffix."""

GENERATIVE = "generative"
PARTS = (GENERATIVE, "attribute", "existence", "relation")
"""The parts that are answered each as a whole: the first suffix of a question, or generative."""

SUFFIXES = ("", "_attribute", "_attribute_state", "_attribute_number", "_attribute_action", "_existence", "_relation")
CAPTION_RATES = ("chair", "cover", "hal", "cog")
RATES = ("accuracy", "precision", "recall", "f1")
_START = 0.001  # what every official denominator starts at
_F1_CONSTANT = {"_existence": 0.001}  # below the line of F1; the others have 0.0001
_UNDEFINED = {
    "chair": "no response mentions a known noun",
    "cover": "no image shows anything",
    "cog": "no image has words that are often hallucinated",
    "precision": "no answer was No",
    "recall": "no question had the answer no",
    "f1": "no answer was No and no question had the answer no",
}

# The denominator of the sum of three types starts at three times 0.001.
_STARTS = {"_attribute": 3 * _START}


class CaptionCount(NamedTuple):
    """What one response contributes: known nouns, the hallucinated of them, objects covered, objects there, words that
    people often hallucinate and it did, all such words.
    """

    nouns: int
    hallucinated: int
    covered: int
    truth: int
    cognitive: int
    expected: int


class Judged(NamedTuple):
    """A known noun of a response: which of the nouns it is, the place of the object that it covers or None, and whether
    it is hallucinated. A safe word is neither.
    """

    number: int
    noun: str
    covers: int | None
    hallucinated: bool


@dataclass(frozen=True, kw_only=True)
class Words:
    """The benchmark's words.

    Attributes:
        related: object → words that stand for it too.
        safe: words that are neither right nor wrong.
        similarity: how similar two words are.
        threshold: above which similarity a word stands for another.
    """

    related: Mapping[str, Sequence[str]]
    safe: Collection[str]
    similarity: Similarity
    threshold: float = 0.8

    @functools.cached_property
    def known(self) -> frozenset[str]:
        """All words that count; other nouns are ignored."""
        return frozenset(self.related).union(*self.related.values())


class Response(NamedTuple):
    """One answered item: its image, the type of its question, and either what a caption counts or two answers.

    Attributes:
        image: name of the image.
        kind: type of the item, "generative" or one of `KINDS`.
        caption: what a generative response counts.
        target: the true answer, "yes" or "no".
        answer: what was read, None for unparsed.
    """

    image: str
    kind: str
    caption: CaptionCount | None = None
    target: str | None = None
    answer: str | None = None


def count_caption(found: Iterable[str], truth: Sequence[str], hallu: Sequence[str], words: Words) -> CaptionCount:
    """Count one response.

    A safe word is neither right nor wrong. A noun that is an object of the image, or a word related to one, covers that
    object; where several could be meant, the first in the order: related words of each object, then the objects. So an
    object can be covered by another's noun, and never by its own (a "tree" after a "forest"). Other nouns are compared
    with the expected hallucinations, which they mark, and then by similarity with the objects: the first that is
    similar enough is covered, and without one the noun is hallucinated.

    Args:
        found: the nouns of the response.
        truth: the objects of the image, repetitions kept.
        hallu: what people often hallucinate there.
        words: the benchmark's words, of which `related` must hold all of these.
    """
    return judge_caption(found, truth, hallu, words)[0]


def judge_caption(
    found: Iterable[str], truth: Sequence[str], hallu: Sequence[str], words: Words
) -> tuple[CaptionCount, list[Judged]]:
    """`count_caption`, and what it made of each known noun."""
    known, there, expected = words.known, _candidates(truth, words), _candidates(hallu, words)
    judged: list[Judged] = []
    cognitive: set[int] = set()
    for number, noun in enumerate(found):
        if noun not in known:
            continue
        if noun in words.safe:
            judged.append(Judged(number, noun, None, False))
            continue
        same = _first(noun, there, None)
        if same is not None:
            judged.append(Judged(number, noun, same, False))
            continue
        # Both, as officially: the word itself, and the first similar one, which may stand for another object.
        cognitive.update(
            place for place in (_first(noun, expected, None), _first(noun, expected, words)) if place is not None
        )
        similar = _first(noun, there, words)
        judged.append(Judged(number, noun, similar, similar is None))
    covered = {one.covers for one in judged} - {None}
    hallucinated = sum(one.hallucinated for one in judged)
    return CaptionCount(len(judged), hallucinated, len(covered), len(truth), len(cognitive), len(hallu)), judged


def found_nouns(text: str, spans: Sequence[Span], judged: Sequence[Judged], truth: Sequence[str]) -> Found:
    """What `judge_caption` found, with its places. The node of a noun is the object that it covers, else the noun.

    Args:
        text: the response.
        spans: places of all of its nouns.
        judged: the known nouns.
        truth: the objects of the image, repetitions kept.
    """
    covered = {one.covers for one in judged}
    return Found(
        mentions=[
            as_mention(text, spans[one.number], one.noun if one.covers is None else truth[one.covers]) for one in judged
        ],
        hallucinated=sorted({one.noun for one in judged if one.hallucinated}),
        grounded=sorted(name for place, name in enumerate(truth) if place in covered),
        missed=sorted(name for place, name in enumerate(truth) if place not in covered),
    )


def score_responses(responses: Sequence[Response], rule: str, partial: bool = False) -> Scores:
    """The scores, as fractions.

    Captions, pooled: `chair` = hallucinated nouns / known nouns, `cover` = covered objects / objects, `hal` = responses
    with a hallucinated noun / responses, `cog` = marked words / words that people often hallucinate. Questions, of all
    types and with a suffix of one: `accuracy` = right / questions, `precision` = right No / answered No, `recall` =
    right No / truth no, `f1` of these two. An answer that is unparsed is wrong and no No. `amber_score` = (1 - chair +
    f1) / 2.

    By the rule `amber` a value is the percent that the official tool prints, with its one digit, as a fraction; where
    no answer is No it says 0 and not undefined. Intervals are of the plain ratios.

    Args:
        responses: the answered items.
        rule: a name of `RULES`.
        partial: score all types together though one of them was not answered.
    """
    rows = dict(_rows(responses))
    # Undefined where nothing was asked, by either rule: the official 0 (and 100 for hal) would be a number of nothing.
    asked = {suffix for response in responses for suffix in _suffixes(response)}
    missing = [part for part in PARTS[1:] if f"_{part}" not in asked]
    metrics: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    sums = {name: (float(above.sum()), float(below.sum())) for name, (above, below) in rows.items()}
    if not any(response.kind == GENERATIVE for response in responses):
        metrics.update(dict.fromkeys(CAPTION_RATES))
        reasons.update(dict.fromkeys(CAPTION_RATES, "no generative responses"))
    else:
        metrics.update({name: _rate(*sums[name], rule) for name in CAPTION_RATES})
        if rule == "amber":
            above, below = sums["hal"]
            metrics["hal"] = round(100 - (below - above) / (below + _START) * 100, 1) / 100
    for suffix in SUFFIXES:
        names = [f"{rate}{suffix}" for rate in RATES]
        if suffix not in asked:
            reason = f"no answers to {suffix[1:].replace('_', ' ')} questions" if suffix else "no answers to questions"
        elif not suffix and missing and not partial:
            reason = f"no answers to {' and '.join(missing)} questions"
        else:
            metrics.update(_question_rates(suffix, sums, rule))
            continue
        metrics.update(dict.fromkeys(names))
        reasons.update(dict.fromkeys(names, reason))
    chair, f1 = metrics["chair"], metrics["f1"]
    metrics["amber_score"] = None if chair is None or f1 is None else (1 - chair + f1) / 2
    for name, value in metrics.items():
        if value is None and name not in reasons:
            reasons[name] = _UNDEFINED.get(name.split("_")[0], "chair or f1 is undefined")
    return Scores(
        metrics=metrics, counts=_counts(responses), intervals=_intervals(responses, rows, metrics), reasons=reasons
    )


def tabulate(responses: Sequence[Response], metrics: Sequence[str], ids: Sequence[str]) -> SampleTable:
    """What each response contributes to some of the metrics, as the rule `plain` has them.

    `correct` is the right answer, or a response without a hallucinated noun; `answers` are left to the caller.

    Args:
        responses: the answered items.
        metrics: names of metrics, without `amber_score`.
        ids: names of the items.
    """
    return _table(responses, dict(_rows(responses)), metrics, ids)


def _candidates(objects: Sequence[str], words: Words) -> list[tuple[str, int]]:
    """Words that stand for an object, with its place: the related ones first, as the official code has them."""
    related = [(word, place) for place, name in enumerate(objects) for word in words.related[name]]
    return [*related, *((name, place) for place, name in enumerate(objects))]


def _first(noun: str, candidates: Sequence[tuple[str, int]], words: Words | None) -> int | None:
    """Place of the first candidate that is the noun or, given words, is similar to it."""
    for word, place in candidates:
        if noun == word if words is None else words.similarity(noun, word) > words.threshold:
            return place
    return None


def _suffixes(response: Response) -> tuple[str, ...]:
    if response.kind == GENERATIVE:
        return ()
    return ("", *(f"_{suffix}" for suffix in KINDS[response.kind]))


def _rows(responses: Sequence[Response]) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """Metric → what each response contributes above and below the line."""
    captions = np.array(
        [response.caption or CaptionCount(0, 0, 0, 0, 0, 0) for response in responses], dtype=np.float64
    ).reshape(-1, 6)
    is_caption = np.array([response.kind == GENERATIVE for response in responses], dtype=np.float64)
    yield "chair", (captions[:, 1], captions[:, 0])
    yield "cover", (captions[:, 2], captions[:, 3])
    yield "hal", ((captions[:, 1] > 0).astype(np.float64), is_caption)
    yield "cog", (captions[:, 4], captions[:, 5])
    right = np.array([response.answer == response.target for response in responses], dtype=np.float64)
    said_no = np.array([response.answer == "no" for response in responses], dtype=np.float64)
    truth_no = np.array([response.target == "no" for response in responses], dtype=np.float64)
    for suffix in SUFFIXES:
        of_type = np.array([suffix in _suffixes(response) for response in responses], dtype=np.float64)
        both = of_type * said_no * truth_no
        yield f"accuracy{suffix}", (of_type * right, of_type)
        yield f"precision{suffix}", (both, of_type * said_no)
        yield f"recall{suffix}", (both, of_type * truth_no)
        yield f"f1{suffix}", (2 * both, of_type * (said_no + truth_no))


def _rate(above: float, below: float, rule: str, start: float = _START) -> float | None:
    if rule == "amber":
        return round(above / (below + start) * 100, 1) / 100
    return above / below if below else None


def _question_rates(suffix: str, sums: Mapping[str, tuple[float, float]], rule: str) -> dict[str, float | None]:
    start = _STARTS.get(suffix, _START)
    values = {name: _rate(*sums[f"{name}{suffix}"], rule, start) for name in RATES}
    precision, recall = values["precision"], values["recall"]
    if rule == "amber" and precision is not None and recall is not None:
        constant = _F1_CONSTANT.get(suffix, 0.0001)
        values["f1"] = round(2 * precision * recall / (precision + recall + constant) * 100, 1) / 100
    return {f"{name}{suffix}": value for name, value in values.items()}


def _counts(responses: Sequence[Response]) -> dict[str, int]:
    captions = [response.caption for response in responses if response.caption is not None]
    questions = [response for response in responses if response.kind != GENERATIVE]
    outcomes = Counter((response.target, response.answer) for response in questions)
    return {
        "responses": len(captions),
        "nouns": sum(count.nouns for count in captions),
        "hallucinated_nouns": sum(count.hallucinated for count in captions),
        "hallucinated_responses": sum(count.hallucinated > 0 for count in captions),
        "covered_objects": sum(count.covered for count in captions),
        "truth_objects": sum(count.truth for count in captions),
        "cognitive_hallucinations": sum(count.cognitive for count in captions),
        "expected_hallucinations": sum(count.expected for count in captions),
        "n": len(questions),
        # "No" is the positive class.
        "tp": outcomes["no", "no"],
        "fp": outcomes["yes", "no"],
        "tn": outcomes["yes", "yes"],
        "fn": outcomes["no", "yes"],
        "unparsed": sum(response.answer is None for response in questions),
    }


def _table(
    responses: Sequence[Response],
    rows: Mapping[str, tuple[np.ndarray, np.ndarray]],
    metrics: Sequence[str],
    ids: Sequence[str],
) -> SampleTable:
    right = [one.answer == one.target if one.caption is None else one.caption.hallucinated == 0 for one in responses]
    return SampleTable(
        ids=ids,
        images=[response.image for response in responses],
        metrics=tuple(metrics),
        numerators=np.stack([rows[name][0] for name in metrics], axis=1),
        denominators=np.stack([rows[name][1] for name in metrics], axis=1),
        correct=np.array(right, dtype=bool),
        answers=[response.answer for response in responses],
        proportions=frozenset(name for name in metrics if name.startswith(("accuracy", "precision", "recall"))),
    )


def _intervals(
    responses: Sequence[Response],
    rows: Mapping[str, tuple[np.ndarray, np.ndarray]],
    metrics: Mapping[str, float | None],
) -> dict[str, list[float]]:
    names = tuple(name for name in rows if metrics[name] is not None)
    if not names:
        return {}
    table = _table(responses, rows, names, [response.image for response in responses])
    found = {}
    for name, (low, high) in ratio_intervals(table).items():
        value = metrics[name] or 0.0
        # The official constants and rounding can put the value a hair beside an interval that is a point.
        found[name] = [min(low, value), max(high, value)]
    return found
