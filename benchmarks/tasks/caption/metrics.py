"""CIDEr-D, BLEU and ROUGE-L of captions, from words. Pure arithmetic: numpy and the standard library.

All three are those of pycocoevalcap 1.2, to rounding. A caption is a sequence of words, and its references are several
such sequences; see `benchmarks.tasks.caption.tokens` for the words.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...stats import RESAMPLES, SEED, percentile_interval, resampled_sums

Words = Sequence[str]
ORDERS = 4
"""N-grams are counted up to this length."""

_SIGMA = 6.0
_BETA = 1.2
# What BLEU's official code adds above and below its fractions, so that nothing is divided by zero.
_TINY, _SMALL = 1e-15, 1e-9
_BLEU_COLUMNS = 2 * ORDERS + 2

NGram = tuple[str, ...]


class CaptionScores(NamedTuple):
    """What captions score, one row per caption where it is a mean over captions.

    Attributes:
        cider: (n,) CIDEr-D of each caption, 0 to 10.
        rouge_l: (n,) ROUGE-L of each caption, 0 to 1.
        bleu_sums: (n, 10) what each caption adds to the corpus's BLEU: see `bleu`.
    """

    cider: NDArray[np.float64]
    rouge_l: NDArray[np.float64]
    bleu_sums: NDArray[np.float64]


def caption_scores(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> CaptionScores:
    """All metrics of n captions.

    Args:
        captions: the words of each caption.
        references: the words of each of its references; at least one.

    Raises:
        ValueError: for another number of captions than of references, or a caption without one.
    """
    if len(captions) != len(references):
        raise ValueError(
            f"captions and references do not fit: got {len(captions)} and {len(references)}; expected as many. "
            "Pair them."
        )
    empty = [index for index, texts in enumerate(references) if not texts]
    if empty:
        raise ValueError(f"a caption has no reference: got none for number {empty[0]}; expected one or more. Add it.")
    return CaptionScores(
        cider=cider_d(captions, references),
        rouge_l=np.array([rouge_l(*pair) for pair in zip(captions, references, strict=True)], dtype=np.float64),
        bleu_sums=np.array(
            [bleu_sums(*pair) for pair in zip(captions, references, strict=True)], dtype=np.float64
        ).reshape(-1, _BLEU_COLUMNS),
    )


def cider_d(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> NDArray[np.float64]:
    """CIDEr-D of each caption, (n,), 0 to 10; the score of a set is their mean.

    For n-grams of each length 1 to 4 a text is the vector of its counts times log(N / df): N is the number of captions
    and df in how many of them a reference holds the n-gram, at least 1. The similarity of caption c and reference r is
    Σ min(c, r)·r / (|c| |r|), times exp(-Δ²/2σ²), where σ is 6 and Δ the difference of their numbers of bigrams. The
    score is ten times the mean over lengths and references.

    So it depends on which captions are scored together, and that of a single one is 0: log(1/1) is.

    Source: Vedantam et al. 2015, arXiv:1411.5726; pycocoevalcap 1.2, cider/cider_scorer.py.
    """
    counted = [[_ngrams(words) for words in texts] for texts in references]
    frequency: Counter[NGram] = Counter()
    for texts in counted:
        frequency.update({ngram for counts in texts for ngram in counts})
    everything = math.log(len(captions)) if captions else 0.0
    weight = {ngram: everything - math.log(count) for ngram, count in frequency.items()}
    scores = np.zeros(len(captions))
    for index, (words, texts) in enumerate(zip(captions, counted, strict=True)):
        own = _vector(_ngrams(words), weight, everything)
        alike = [_similarity(own, _vector(counts, weight, everything)) for counts in texts]
        scores[index] = 10.0 * sum(alike) / len(alike)
    return scores


def bleu_sums(caption: Words, references: Sequence[Words]) -> list[int]:
    """What one caption adds to BLEU: n-grams of length 1 to 4, those that match, its words, the reference's words.

    An n-gram matches as often as the reference that holds it most often has it. Of the lengths of the references the
    closest counts, of two equally close ones the shorter.
    """
    most: Counter[NGram] = Counter()
    for words in references:
        most |= _ngrams(words)
    matches = Counter(len(ngram) for ngram in (_ngrams(caption) & most).elements())
    closest = min((abs(len(words) - len(caption)), len(words)) for words in references)[1]
    return [
        *(max(0, len(caption) - order + 1) for order in range(1, ORDERS + 1)),
        *(matches[order] for order in range(1, ORDERS + 1)),
        len(caption),
        closest,
    ]


def bleu(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """BLEU-1 to BLEU-4 of sets of captions, (..., 4), from the sums of `bleu_sums` over each set, (..., 10).

    BLEU-n is the geometric mean of the precisions of length 1 to n, times exp(1 - r/c) where the captions have fewer
    words (c) than the closest references (r). With matches of no 3-gram BLEU-3 is therefore not 0 but about 1e-5.

    Source: Papineni et al. 2002; pycocoevalcap 1.2, bleu/bleu_scorer.py with option "closest".
    """
    guesses, matches = sums[..., :ORDERS], sums[..., ORDERS : 2 * ORDERS]
    ratio = (sums[..., -2] + _TINY) / (sums[..., -1] + _SMALL)
    brevity = np.exp(np.minimum(0.0, 1.0 - 1.0 / ratio))
    products = np.cumprod((matches + _TINY) / (guesses + _SMALL), axis=-1)
    return products ** (1.0 / np.arange(1, ORDERS + 1)) * brevity[..., None]


def rouge_l(caption: Words, references: Sequence[Words]) -> float:
    """ROUGE-L of a caption, 0 to 1: the weighted harmonic mean, β = 1.2, of the best precision and the best recall.

    Both are the length of the longest common subsequence of words, over the words of the caption or of the reference;
    the best two may come from different references. As in the official code a text without words is one empty word.

    Source: Lin 2004; pycocoevalcap 1.2, rouge/rouge.py.
    """
    own = list(caption) or [""]
    others = [list(words) or [""] for words in references]
    common = [_common(own, words) for words in others]
    precision = max(common) / len(own)
    recall = max(length / len(words) for length, words in zip(common, others, strict=True))
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def resampled_bleu(
    sums: NDArray[np.float64], images: Sequence[str], *, seed: int = SEED, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """BLEU of sets of captions drawn by image, with repetition, (resamples, 4). No rows for fewer than two images.

    Args:
        sums: (n, 10) of `bleu_sums`, or (n, k, 10) of k runs on the same captions; the result then is (..., k, 4).
        images: name of the image of each caption; equal names and seed draw the same images.
        seed: of the draws.
        resamples: how many sets.
    """
    totals = resampled_sums(sums.reshape(len(sums), math.prod(sums.shape[1:])), images, seed=seed, resamples=resamples)
    return bleu(totals.reshape(len(totals), *sums.shape[1:]))


def bleu_intervals(sums: NDArray[np.float64], images: Sequence[str]) -> list[list[float]] | None:
    """95 % intervals of BLEU-1 to BLEU-4 by a bootstrap over images; None for fewer than two images."""
    intervals = [percentile_interval(column) for column in resampled_bleu(sums, images).T]
    return [list(interval) for interval in intervals if interval is not None] or None


class _Vector(NamedTuple):
    """A text's weighted n-grams, one mapping and one norm per length, and its number of bigrams."""

    weights: list[dict[NGram, float]]
    norms: list[float]
    bigrams: int


def _ngrams(words: Words) -> Counter[NGram]:
    return Counter(
        tuple(words[start : start + order]) for order in range(1, ORDERS + 1) for start in range(len(words) - order + 1)
    )


def _vector(counts: Counter[NGram], weight: dict[NGram, float], otherwise: float) -> _Vector:
    weights: list[dict[NGram, float]] = [{} for _ in range(ORDERS)]
    for ngram, count in counts.items():
        weights[len(ngram) - 1][ngram] = count * weight.get(ngram, otherwise)
    norms = [math.sqrt(sum(value * value for value in part.values())) for part in weights]
    return _Vector(weights, norms, sum(count for ngram, count in counts.items() if len(ngram) == 2))


def _similarity(caption: _Vector, reference: _Vector) -> float:
    """The mean over lengths of n-grams, the penalty for another length included."""
    total = 0.0
    for own, other, *norms in zip(caption.weights, reference.weights, caption.norms, reference.norms, strict=True):
        if norms[0] and norms[1]:
            shared = own.keys() & other.keys()
            total += sum(min(own[ngram], other[ngram]) * other[ngram] for ngram in shared) / (norms[0] * norms[1])
    return total / ORDERS * math.exp(-((caption.bigrams - reference.bigrams) ** 2) / (2 * _SIGMA**2))


def _common(one: Words, other: Words) -> int:
    """Length of the longest common subsequence, by the bit-parallel method of Hyyrö 2004: a bit per word of `one`."""
    places: dict[str, int] = {}
    for position, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << position
    full = (1 << len(one)) - 1
    row = full  # a zero bit is a step of the longest common subsequence so far
    for word in other:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & full
    return len(one) - row.bit_count()
