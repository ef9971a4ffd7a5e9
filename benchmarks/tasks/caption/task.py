"""Captions against reference captions: CIDEr-D, BLEU and ROUGE-L. How alike the wording is, not whether it is true."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...records import RecordError, SampleRecord
from ...stats import Comparison, Difference, SampleTable, compare_tables, percentile_interval
from ..base import Grade, Sample, Scores, Task, score_ratios
from .metrics import ORDERS, CaptionScores, bleu, bleu_intervals, caption_scores, resampled_bleu
from .tokens import tokenize

if TYPE_CHECKING:
    from ..coco import CocoData

BLEU = tuple(f"bleu_{order}" for order in range(1, ORDERS + 1))
UNITS = {"cider": "points of 10"}
_UNDEFINED = "no captions"


class Caption(Task):
    """Captions of images, and how alike they are to the reference captions.

    `cider` is CIDEr-D with its factor 10, in points of 10 (papers print it times 100: 1.2 is "120"). It depends on
    which images are scored together, as n-grams are weighted by their frequency in those images' references, and is 0
    for a single image. `bleu_1` to `bleu_4` are of the whole set, not means over captions. Reference captions are
    short: long descriptions score low whatever they say.

    Intervals are by a bootstrap over images; for CIDEr-D with the weights of n-grams held fixed.

    The prompt and the images are those of the task `chair`.
    """

    name = "caption"
    version = 1
    paper = "Vedantam et al. 2015, CIDEr: Consensus-based Image Description Evaluation, arXiv:1411.5726"
    checked_against = "pycocoevalcap 1.2: equal on the same words to 1e-6; words equal on the 145 sample references"
    rule = "ptb"
    kind = "caption"
    max_new_tokens = 128
    options: ClassVar[Mapping[str, int]] = MappingProxyType({"img_num": 500})
    prompt: ClassVar[str] = "Please describe this image in detail."

    def samples(self, data: CocoData, seed: int) -> list[Sample]:
        """One caption for each of at most 500 images, drawn at random among those with reference captions.

        The target is the list of reference captions.

        Raises:
            ConfigError: for a data set without captions.
        """
        from ..coco import draw_described  # needs torch, and scoring does not

        return [
            Sample(
                id=str(image.id),
                image=image.path,
                prompt=self.prompt,
                target=data.captions(image.id),
                facts=data.facts(image.id),
            )
            for image in draw_described(data, seed, self.options["img_num"])
        ]

    def grade(self, target: Any, output: str) -> Grade:
        """Nothing: a caption is not right or wrong as a whole."""
        return Grade(None, None)

    def table(self, records: Sequence[SampleRecord]) -> SampleTable:
        """What each caption contributes to `cider` and `rouge_l`, the means over captions; none counts as a fault."""
        answered = [record for record in records if record.error is None]
        return _table(answered, _scores(answered, self.rule))

    def score(self, records: Sequence[SampleRecord]) -> Scores:
        """The scores of a run.

        Counts: captions, failed (samples with an error, left out of all else), references, words, reference_words (of
        the reference that is closest in length).
        """
        answered = [record for record in records if record.error is None]
        return score_answered(answered, self.rule, {"failed": len(records) - len(answered)})

    def compare(self, baseline: Sequence[SampleRecord], method: Sequence[SampleRecord]) -> Comparison:
        """Two runs on the captions that both have; every metric's difference, with its interval over images.

        Raises:
            ValueError: where the two share no sample or disagree on what a sample is.
        """
        runs = [[record for record in run if record.error is None] for run in (baseline, method)]
        both = {record.id for record in runs[0]} & {record.id for record in runs[1]}
        unpaired = sum(len(run) for run in runs) - 2 * len(both)
        if both:  # CIDEr-D weighs words by the images that are scored, which must be the same ones
            runs = [sorted((one for one in run if one.id in both), key=lambda one: one.id) for run in runs]
        scores = [_scores(run, self.rule) for run in runs]
        found = compare_tables(*(_table(run, values) for run, values in zip(runs, scores, strict=True)))
        sums = np.stack([one.bleu_sums for one in scores], axis=1)
        differences = _bleu_differences(sums, [record.image for record in runs[0]])
        order = ("cider", *BLEU, "rouge_l")
        merged = {**found.differences, **differences}
        return dataclasses.replace(
            found,
            unpaired=unpaired,
            differences={name: merged[name] for name in order if name in merged},
        )


def score_answered(records: Sequence[SampleRecord], rule: str, left_out: Mapping[str, int]) -> Scores:
    """The scores of records without errors.

    Args:
        records: the captions in `output`, their references in `target`.
        rule: how words are cut, a name of `benchmarks.tasks.caption.tokens.RULES`.
        left_out: further counts, of samples that are not among the records.

    Raises:
        RecordError: for a target that is no list of texts.
    """
    values = _scores(records, rule)
    means = score_ratios(_table(records, values), {"cider": _UNDEFINED, "rouge_l": _UNDEFINED})
    sums = values.bleu_sums.sum(axis=0)
    whole = dict(zip(BLEU, bleu(sums).tolist(), strict=True)) if records else dict.fromkeys(BLEU)
    intervals = bleu_intervals(values.bleu_sums, [record.image for record in records])
    spans = dict(zip(BLEU, intervals, strict=True)) if intervals is not None else {}
    return Scores(
        metrics={"cider": means.metrics["cider"], **whole, "rouge_l": means.metrics["rouge_l"]},
        counts={
            "captions": len(records),
            **left_out,
            "references": sum(len(record.target) for record in records),
            "words": int(sums[-2]),
            "reference_words": int(sums[-1]),
        },
        intervals={**means.intervals, **spans},
        reasons=means.reasons if records else dict.fromkeys(("cider", *BLEU, "rouge_l"), _UNDEFINED),
        units=dict(UNITS),
    )


def _scores(records: Sequence[SampleRecord], rule: str) -> CaptionScores:
    for record in records:
        target = record.target
        if not isinstance(target, list | tuple) or not target or not all(isinstance(text, str) for text in target):
            raise RecordError(
                f"the target of caption {record.id!r} is wrong: got {target!r}; expected a list of reference captions. "
                "Run it again."
            )
    captions = [tokenize(record.output, rule) for record in records]
    return caption_scores(captions, [[tokenize(text, rule) for text in record.target] for record in records])


def _table(records: Sequence[SampleRecord], values: CaptionScores) -> SampleTable:
    return SampleTable(
        ids=[record.id for record in records],
        images=[record.image for record in records],
        metrics=("cider", "rouge_l"),
        numerators=np.stack([values.cider, values.rouge_l], axis=1),
        denominators=np.ones((len(records), 2)),
        correct=np.ones(len(records), dtype=bool),
        answers=[record.output for record in records],
    )


def _bleu_differences(sums: NDArray[np.float64], images: Sequence[str]) -> dict[str, Difference]:
    """Method minus baseline, of (n, 2, 10) sums of both; the same images are drawn for both."""
    before, after = bleu(sums.sum(axis=0))
    resampled = resampled_bleu(sums, images)
    drawn = resampled[:, 1] - resampled[:, 0]
    return {
        name: Difference(float(after[column] - before[column]), percentile_interval(drawn[:, column]))
        for column, name in enumerate(BLEU)
    }
