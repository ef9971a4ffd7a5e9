"""What anyone gets without a method: captions cut short, another yes-threshold, the same model sampled otherwise."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._benchmarks import Found, SampleRecord, caption_table, graded, yes_no_table
from .load import Run, short_value

AS_IT_IS = "as it is"
"""The trivial row that changes nothing."""
_WORDS, _SENTENCES, _THRESHOLDS = 20, 4, 40
_WORD = re.compile(r"\S+")
_SENTENCE = re.compile(r"[.!?]+(?=\s|$)")

_Floats = NDArray[np.float64]


class TrivialRow(NamedTuple):
    """One trivial change of a baseline, and what each sample then adds to the rate and to the recall.

    Attributes:
        label: what is done.
        above: (n, 2) numerators of rate and recall, in the order of the baseline's samples.
        below: (n, 2) their denominators.
    """

    label: str
    above: _Floats
    below: _Floats


def trivial_rows(
    baseline: Sequence[SampleRecord], others: Sequence[tuple[str, Sequence[SampleRecord]]] = ()
) -> list[TrivialRow]:
    """The baseline as it is, then its trivial changes.

    Of graded captions: the first sentences of each, and the first words, at even steps up to the longest. A mention
    stays where all of it does. Of answers with a margin each: yes where it is above a threshold, at even steps of rank.

    Args:
        baseline: samples of the unpatched model, all graded.
        others: label and samples, in the same order, of the same model run otherwise.
    """
    captions = baseline[0].found is not None
    rows = [plain_row(label, samples) for label, samples in [(AS_IT_IS, baseline), *others]]
    return rows + (_shortened(baseline) if captions else _thresholds(baseline))


def plain_row(label: str, samples: Sequence[SampleRecord]) -> TrivialRow:
    """Samples as they are: graded captions by CHAIR-i and recall, answers by hallucination rate and recall."""
    captions = samples[0].found is not None
    table = (caption_table if captions else yes_no_table)(samples)
    columns = [table.metrics.index(name) for name in ("chair_i" if captions else "hallucination_rate", "recall")]
    return TrivialRow(label, table.numerators[:, columns], table.denominators[:, columns])


def other_samplings(baseline: Run, runs: Sequence[Run], ids: Sequence[str]) -> list[tuple[str, list[SampleRecord]]]:
    """Label and samples of the runs of the same model, task and questions that differ in how tokens are drawn alone.

    Args:
        baseline: of the comparison.
        runs: where they are looked for.
        ids: the samples that each must have, graded as the baseline's are.
    """
    found = []
    own = baseline.record.generation
    for run in runs:
        same = run.setting._replace(generation=baseline.setting.generation) == baseline.setting
        if run is baseline or not run.is_baseline or not same or run.record.prompt != baseline.record.prompt:
            continue
        samples = {sample.id: sample for sample in run.samples}
        chosen = [samples[name] for name in ids if name in samples]
        if len(chosen) < len(ids) or not (run.is_yes_no or all(one.found is not None for one in chosen)):
            continue
        other = run.record.generation
        told = [
            f"{name} {short_value(other.get(name))}" for name in {**own, **other} if own.get(name) != other.get(name)
        ]
        if told:
            found.append((", ".join(told), chosen))
    return found


def cut_caption(sample: SampleRecord, end: int) -> SampleRecord:
    """A caption up to a place, with what its grade says of that part.

    Raises:
        ValueError: for a caption without a grade.
    """
    [whole] = graded([sample])
    mentions = [mention for mention in whole["mentions"] if mention["end"] <= end]
    named = {mention["node"] for mention in mentions}
    found = Found(
        mentions=mentions,
        hallucinated=[name for name in whole["hallucinated"] if name in named],
        grounded=[name for name in whole["grounded"] if name in named],
        missed=sorted([*whole["missed"], *(name for name in whole["grounded"] if name not in named)]),
    )
    return dataclasses.replace(sample, output=sample.output[:end], found=found)


def _shortened(captions: Sequence[SampleRecord]) -> list[TrivialRow]:
    """Cut after the first sentences, and after the first words."""
    rows = []
    for pattern, name, levels in ((_SENTENCE, "sentence", _few), (_WORD, "word", _even)):
        ends = [[found.end() for found in pattern.finditer(one.output)] for one in captions]
        for level in levels(max(map(len, ends))):
            cut = [
                cut_caption(one, places[level - 1]) if level <= len(places) else one
                for one, places in zip(captions, ends, strict=True)
            ]
            rows.append(plain_row(f"first {name}" if level == 1 else f"first {level} {name}s", cut))
    return rows


def _few(longest: int) -> list[int]:
    return list(range(1, min(longest, _SENTENCES + 1)))


def _even(longest: int) -> list[int]:
    levels = np.unique(np.linspace(0, longest, _WORDS + 2).round().astype(int)).tolist()
    return [level for level in levels if 0 < level < longest]


def _thresholds(answers: Sequence[SampleRecord]) -> list[TrivialRow]:
    """None where a margin is missing, or a class cannot be told from the target."""
    if any(one.margin is None or one.target not in ("yes", "no") for one in answers):
        return []
    margins = np.array([one.margin for one in answers], dtype=np.float64)
    present = np.array([one.target == "yes" for one in answers])
    below = np.stack([~present, present], axis=1).astype(np.float64)
    ranks = np.linspace(0, 1, _THRESHOLDS + 2)[1:-1]
    return [
        TrivialRow(f"yes above {threshold:.3g}".replace("-", "−"), below * (margins > threshold)[:, None], below)
        for threshold in np.unique(np.quantile(margins, ranks, method="lower"))
    ]
