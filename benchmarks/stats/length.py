"""Made-up mentions at equal length: shorter captions hold fewer of them, whatever else a method does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..records import SampleRecord, hallucinated_mentions
from .comparison import Difference, paired_tables
from .regression import fit_poisson
from .resampling import RESAMPLES, SEED, bootstrap_weights, percentile_interval, unit_index
from .sums import SampleTable, graded

_Floats = NDArray[np.float64]
_NOTHING = 1e-9  # mentions per caption


@dataclass(frozen=True, kw_only=True)
class LengthControl:
    """What of a method's change in made-up mentions its captions' length explains. The changes are per caption.

    `total` is the sum of the other two.

    Attributes:
        n: captions in both runs.
        images: units of resampling.
        words: per caption, of the baseline and of the method.
        exponent: b of the baseline's line: a caption of w words has e^a · w^b made-up mentions. None where undefined.
        within: share (0–1) of the method's captions that are as long as some of the baseline's; of the others the line
            is an extrapolation.
        total: method minus baseline.
        by_length: what the baseline's line expects of captions as long as the method's, minus the baseline.
        residual: the method, minus what that line expects.
        reason: why the last two are None; empty where they are not.
    """

    n: int
    images: int
    words: tuple[float, float]
    exponent: float | None
    within: float
    total: Difference
    by_length: Difference | None
    residual: Difference | None
    reason: str = ""


def length_table(records: Sequence[SampleRecord]) -> SampleTable:
    """The table of graded captions for `control_length`: made-up mentions and words, both per caption.

    Words are what stands between blanks: `length` of CHAIR counts punctuation too.

    Raises:
        ValueError: for a record without a grade.
    """
    wrong = [len(hallucinated_mentions(found)) for found in graded(records)]
    values = np.array([wrong, [len(record.output.split()) for record in records]], dtype=np.float64).T
    return SampleTable(
        ids=[record.id for record in records],
        images=[record.image for record in records],
        metrics=("made_up_mentions", "words"),
        numerators=values.reshape(-1, 2),
        denominators=np.ones((len(records), 2)),
        correct=np.array(wrong) == 0,
        answers=[record.output for record in records],
    )


def control_length(
    baseline: Sequence[SampleRecord],
    method: Sequence[SampleRecord],
    *,
    seed: int = SEED,
    resamples: int = RESAMPLES,
) -> LengthControl:
    """Method against baseline in made-up mentions, on the captions that both have, with length held equal.

    A Poisson regression of the baseline's made-up mentions on the logarithm of its captions' words says how many a
    caption of each length has; what a method has beyond that is not its length's doing. An empty caption has none. Both
    are refitted in every resample, so that an interval knows how little a baseline of nearly equal lengths tells.

    Raises:
        ValueError: for a record without a grade, and as `compare_tables`.
    """
    before, after = paired_tables(length_table(baseline), length_table(method))
    (wrong, words), (left, words_after) = before.numerators.T, after.numerators.T
    spoken = words > 0
    logs = np.log(np.maximum(words, 1))
    # The spread of many equal logarithms is a rounding error above 0.
    varied = len(np.unique(words[spoken])) > 1
    middle, spread = (float(logs[spoken].mean()), float(logs[spoken].std())) if varied else (0.0, 0.0)
    line, lengths = (_design(of, middle, spread or 1.0) for of in (words, words_after))
    one = np.ones((1, len(words)))
    fit = fit_poisson(line[spoken], wrong[spoken])[0] if spread and wrong.any() else np.full(2, np.nan)
    fitted = bool(np.isfinite(fit).all())

    def means(weights: _Floats) -> tuple[_Floats, _Floats, _Floats]:
        """Made-up mentions per caption: of the baseline, of the method, and what the line says of its lengths."""
        counts = np.full(weights.shape, np.nan)
        if fitted:
            lines = fit_poisson(line[spoken], wrong[spoken], weights[:, spoken], start=fit)
            counts = np.exp(lines @ lengths.T) * (words_after > 0)
        total = weights.sum(axis=1)
        return weights @ wrong / total, weights @ left / total, (weights * counts).sum(axis=1) / total

    was, now, expected = means(one)
    parts = [means(weights) for weights in bootstrap_weights(before.images, seed=seed, resamples=resamples)]
    drawn = [np.concatenate([np.empty(0), *of]) for of in zip(*parts, strict=True)] or [np.empty(0)] * 3
    inside = (words_after >= words[spoken].min(initial=np.inf)) & (words_after <= words.max())
    return LengthControl(
        n=len(before.ids),
        images=unit_index(before.images)[0],
        words=(float(words.mean()), float(words_after.mean())),
        exponent=float(fit[1] / spread) if fitted else None,
        within=float(inside.mean()),
        total=_difference(now - was, drawn[1] - drawn[0]),
        by_length=_difference(expected - was, drawn[2] - drawn[0]) if fitted else None,
        residual=_difference(now - expected, drawn[1] - drawn[2]) if fitted else None,
        reason="" if fitted else _reason(wrong, spread),
    )


def _reason(wrong: _Floats, spread: float) -> str:
    if not wrong.any():
        return "no caption of the baseline makes anything up"
    if not spread:
        return "the captions of the baseline are all of one length"
    return "the captions of the baseline that make something up are all of one length, the longest or the shortest"


def _design(words: _Floats, middle: float, spread: float) -> _Floats:
    """An intercept, and the standardised logarithm of the words, (n, 2)."""
    return np.stack([np.ones(len(words)), (np.log(np.maximum(words, 1)) - middle) / spread], axis=1)


def _difference(value: _Floats, drawn: _Floats) -> Difference:
    # A fit ends within its tolerance: what is smaller is nothing, and has no sign that an interval could be read for.
    shown, resampled = (np.where(np.abs(of) < _NOTHING, 0.0, of) for of in (value, drawn))
    return Difference(float(shown[0]), percentile_interval(resampled))
