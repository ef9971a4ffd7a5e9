"""Made-up mentions at equal length: the regression against scipy's optimiser, and effects that were put in."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.optimize

from benchmarks.records import SampleRecord
from benchmarks.stats import LengthControl, control_length, fit_poisson, graded, length_table, paired_tables

RNG = np.random.default_rng(3)


def caption(name, words, wrong, image=None) -> SampleRecord:
    """A caption of so many words, of which the first ones name a cat that is not there."""
    output = " ".join("cat" if word < wrong else "and" for word in range(words))
    mentions = [{"word": "cat", "start": 4 * place, "end": 4 * place + 3, "node": "cat"} for place in range(wrong)]
    return SampleRecord(
        id=str(name), image=image or f"{name}.jpg", prompt="", target=["dog"], output=output,
        found={"mentions": mentions, "hallucinated": ["cat"] if wrong else [], "grounded": [], "missed": ["dog"]},
    )  # fmt: skip


def captions(words, rate, exponent=1.0, seed=0):
    """A caption of each length, with rate · wordsᵇ made-up mentions on average."""
    generator = np.random.default_rng(seed)
    counts = np.minimum(generator.poisson(rate * np.asarray(words, float) ** exponent), words)
    return [caption(name, int(n), int(wrong)) for name, (n, wrong) in enumerate(zip(words, counts, strict=True))]


LONG = RNG.integers(20, 60, size=800)


def test_the_poisson_fit_is_that_of_a_plain_optimiser_with_weights():
    x = RNG.normal(size=60)
    design, counts = np.stack([np.ones(60), x], axis=1), RNG.poisson(np.exp(0.3 + 0.8 * x)).astype(float)
    weights = RNG.integers(0, 3, size=(4, 60)).astype(float)
    found = fit_poisson(design, counts, weights)
    assert fit_poisson(design, counts, weights, start=np.array([1.0, -1.0])) == pytest.approx(found)
    for row, beta in zip(weights, found, strict=True):

        def loss(beta, row=row):
            return (row * (np.exp(design @ beta) - counts * (design @ beta))).sum()

        plain = scipy.optimize.minimize(loss, np.zeros(2), method="BFGS", options={"gtol": 1e-8})
        assert beta == pytest.approx(plain.x, abs=1e-4)


def test_two_groups_by_hand_and_no_finite_maximum():
    """Of one 0/1 covariate the slope is the logarithm of the means' ratio: here 6/2."""
    design = np.stack([np.ones(4), [0.0, 0.0, 1.0, 1.0]], axis=1)
    [(intercept, slope)] = fit_poisson(design, np.array([1.0, 3.0, 5.0, 7.0]))
    assert (intercept, slope) == pytest.approx((math.log(2), math.log(3)))
    assert np.isnan(fit_poisson(design, np.zeros(4))).all()
    assert np.isnan(fit_poisson(design, np.array([0.0, 0.0, 1.0, 2.0]))).all(), "zeros but at one end"


def test_shorter_captions_alone_leave_nothing_at_equal_length():
    before, after = captions(LONG, 0.02), captions(LONG // 2, 0.02, seed=1)
    found = control_length(before, after)
    assert found.exponent == pytest.approx(1, abs=0.35)
    assert found.total.interval.high < 0
    assert found.residual.interval.low < 0 < found.residual.interval.high
    assert found.by_length.value + found.residual.value == pytest.approx(found.total.value)
    assert found.by_length.value == pytest.approx(found.total.value, abs=0.15)
    assert found.words == (LONG.mean(), (LONG // 2).mean())
    assert found.within == pytest.approx((LONG.min() <= LONG // 2).mean())
    assert (found.n, found.images, found.reason) == (800, 800, "")


def test_fewer_at_the_same_lengths_is_all_residual():
    before = captions(LONG, 0.02)
    halved = captions(LONG, 0.01, seed=1)
    found = control_length(before, halved, resamples=200)
    assert found.by_length.value == pytest.approx(0, abs=1e-9), "the fit has the baseline's own sum"
    assert found.by_length.interval == (0, 0), "and no sign of its own by rounding"
    assert found.residual.value == pytest.approx(found.total.value)
    assert found.residual.interval == pytest.approx(found.total.interval)
    assert found.residual.interval.high < 0
    assert found.within == 1


def test_an_effect_at_equal_length_is_found_beside_shorter_captions():
    found = control_length(captions(LONG, 0.04), captions(LONG * 2 // 3, 0.02, seed=1))
    assert found.residual.interval.high < 0
    assert found.residual.value == pytest.approx(-0.02 * (LONG * 2 // 3).mean(), abs=0.12)
    assert found.total.value < found.residual.value


def test_pairs_images_and_empty_captions():
    before = [caption(row, int(n), row % 3, image=f"{row // 4}.jpg") for row, n in enumerate(LONG[:40])]
    after = [*reversed(before[:30]), caption("other", 3, 1)]
    found = control_length(before, after, resamples=100)
    assert (found.n, found.images) == (30, 8)
    assert found.total.value == found.residual.value == 0, "paired by name, not by place"
    silent = [dataclasses.replace(one, output="", found={**one.found, "mentions": []}) for one in before]
    none = control_length(before, silent, resamples=100)
    assert none.words[1] == none.within == 0
    assert none.residual.value == 0, "an empty caption is expected to have nothing"
    assert none.by_length.value == none.total.value == -np.mean([row % 3 for row in range(40)])
    assert control_length(silent[:1] + before[1:], before, resamples=100).reason == ""


@pytest.mark.parametrize(
    ("before", "word"),
    [
        ([caption(row, 9 + row, 0) for row in range(5)], "makes anything up"),
        ([caption(row, 9, row % 2) for row in range(5)], "all of one length"),
        ([caption(row, 7, row % 2) for row in range(5)], "the captions of the baseline are all of one length"),
        ([caption(row, 9 + (row == 4), int(row == 4)) for row in range(5)], "the longest or the shortest"),
        ([caption(row, 0, 0) for row in range(5)], "makes anything up"),
    ],
)
def test_what_cannot_be_controlled_is_said(before, word):
    found = control_length(before, captions([9, 9, 9, 9, 9], 0.5))
    assert isinstance(found, LengthControl)
    assert word in found.reason
    assert (found.exponent, found.by_length, found.residual) == (None, None, None)
    assert found.total.interval is not None


def test_the_table_it_pairs():
    before = [caption(0, 4, 2), caption(1, 5, 0)]
    table = length_table(before)
    assert table.numerators.tolist() == [[2, 4], [0, 5]]
    assert table.correct.tolist() == [False, True]
    assert [found["hallucinated"] for found in graded(before)] == [["cat"], []]
    first, second = paired_tables(table, length_table(before[::-1]))
    assert list(first.ids) == list(second.ids) == ["0", "1"]
    with pytest.raises(ValueError, match="captions without a grade: got 1, the first is '0'"):
        length_table([dataclasses.replace(before[0], found=None), before[1]])
