"""The statistics of `analysis` against scipy, plain definitions and examples worked by hand."""

import math
import random

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from synthetic_results import questions

from analysis.bins import paper_bins, quantile_bins
from analysis.correlation import correlate, weighted_correlation
from analysis.logistic import fit_logistic
from analysis.resampling import (
    bootstrap_weights,
    image_index,
    image_permutations,
    interval,
    mean_intervals,
    ratio_intervals,
    sign_flip_p,
)
from benchmarks.resampling import resampled_ratios
from benchmarks.stats import yes_no_table

RNG = np.random.default_rng(7)
X = RNG.normal(size=60)
Y = (X + RNG.normal(size=60) > 0).astype(float)
IMAGES = [f"{row // 3}.jpg" for row in range(60)]


# Correlation


@pytest.mark.parametrize("x", [X, np.round(X), np.round(X * 2)], ids=["plain", "tied", "half"])
def test_correlations_are_scipys(x):
    one = np.ones((1, len(x)))
    assert weighted_correlation(x, Y, one)[0] == pytest.approx(scipy.stats.pearsonr(x, Y).statistic)
    assert weighted_correlation(x, Y, one, ranked=True)[0] == pytest.approx(scipy.stats.spearmanr(x, Y).statistic)


@pytest.mark.parametrize("ranked", [False, True])
def test_a_weight_counts_a_sample_that_often(ranked):
    weights = RNG.integers(0, 4, size=(5, 60)).astype(float)
    found = weighted_correlation(np.round(X, 1), Y, weights, ranked=ranked)
    for row, r in zip(weights, found, strict=True):
        x, y = (np.repeat(of, row.astype(int)) for of in (np.round(X, 1), Y))
        plain = scipy.stats.spearmanr(x, y) if ranked else scipy.stats.pearsonr(x, y)
        assert r == pytest.approx(plain.statistic)


def test_within_groups_the_means_are_taken_off():
    groups = np.repeat([0, 1], 30)
    x, y = X + 10 * groups, Y - 5 * groups
    within = weighted_correlation(x, y, np.ones((1, 60)), groups=groups)[0]
    parts = [(of - of.mean()) for of in (x[:30], x[30:])], [(of - of.mean()) for of in (y[:30], y[30:])]
    assert within == pytest.approx(scipy.stats.pearsonr(*map(np.concatenate, parts)).statistic)
    assert weighted_correlation(x, y, np.ones((1, 60)))[0] < 0 < within, "Simpson's paradox"
    ranks = [np.concatenate([scipy.stats.rankdata(of[:30]), scipy.stats.rankdata(of[30:])]) for of in (x, y)]
    ranked = weighted_correlation(x, y, np.ones((1, 60)), groups=groups, ranked=True)[0]
    centred = [of - np.repeat([of[:30].mean(), of[30:].mean()], 30) for of in ranks]
    assert ranked == pytest.approx(scipy.stats.pearsonr(*centred).statistic)


def test_the_permutation_p_is_that_of_scipy_where_samples_are_independent():
    images, strata = [str(row) for row in range(60)], ["m"] * 60
    x = np.random.default_rng(1).normal(size=60) + 0.4 * Y
    found = correlate(x, Y, images, strata, resamples=5000)
    exact = scipy.stats.pearsonr(x, Y, method=scipy.stats.PermutationMethod(n_resamples=5000, rng=RNG))
    assert 0.01 < exact.pvalue < 0.9
    assert found.p == pytest.approx(exact.pvalue, abs=0.03)
    assert found.interval[0] < found.r < found.interval[1]


def test_questions_about_one_image_are_not_independent():
    """Copies of each question leave r alone, and widen neither confidence nor significance as more data would."""
    x, y, images = np.repeat(X[::3], 9), np.repeat(Y[::3], 9), np.repeat([str(row) for row in range(20)], 9)
    one = correlate(X[::3], Y[::3], [str(row) for row in range(20)], ["m"] * 20)
    copies = correlate(x, y, list(images), ["m"] * len(x))
    assert copies.r == pytest.approx(one.r)
    assert copies.interval == pytest.approx(one.interval)
    assert copies.p == pytest.approx(one.p, abs=0.02)


def test_under_the_null_p_is_uniform_although_images_share_their_errors():
    small = 0
    for trial in range(60):
        generator = np.random.default_rng(trial)
        x, common = np.repeat(generator.normal(size=15), 6), np.repeat(generator.normal(size=15), 6)
        y = (common + 0.1 * generator.normal(size=90) > 0).astype(float)
        found = correlate(x, y, list(np.repeat(np.arange(15).astype(str), 6)), ["m"] * 90, resamples=200)
        small += found.p is not None and found.p < 0.05
    assert small <= 8, "60 trials at 5 % give 3; taking questions for independent gives about 30"


@pytest.mark.parametrize(
    ("x", "y", "word"),
    [(np.full(60, 3.7), Y, "one value, 3.7"), (X, np.zeros(60), "y has one value"), (X[:2], Y[:2], "2 samples")],
)
def test_what_does_not_vary_has_no_correlation_but_a_sentence(x, y, word):
    found = correlate(x, y, IMAGES[: len(x)], ["m"] * len(x))
    assert (found.r, found.interval, found.p) == (None, (None, None), None)
    assert word in found.reason


def test_what_varies_between_groups_alone_has_none_within():
    groups = ["a"] * 30 + ["b"] * 30
    found = correlate(np.repeat([1.0, 2.0], 30), Y, IMAGES, groups, within=groups)
    assert found.r is None
    assert "within any group" in found.reason


def test_one_image_has_r_but_neither_interval_nor_p():
    found = correlate(X[:6], Y[:6], ["a"] * 6, ["m"] * 6)
    assert found.r is not None
    assert (found.interval, found.p) == ((None, None), None)
    assert "no p" in found.reason
    assert "too few images" in found.reason


# Resampling


def test_permutations_keep_blocks_and_strata():
    images = ["a", "a", "b", "b", "c", "c", "c", "a", "b"]
    strata = ["m", "n", "n", "m", "m", "n", "n", "m", "m"]
    (found,) = image_permutations(images, strata, permutations=50)
    assert (np.sort(found, axis=1) == np.arange(9)).all()
    for row in found:
        assert [strata[source] for source in row] == strata
        assert list(row[[4, 5, 6]]) == [4, 5, 6], "no other image has the questions of c"
        swapped = images[row[0]] == "b"
        assert list(row) == ([3, 2, 1, 0, 4, 5, 6, 8, 7] if swapped else list(range(9)))
    assert 0.2 < np.mean([images[row[0]] == "b" for row in found]) < 0.8
    assert not list(image_permutations(["a", "b"], ["m", "n"]))


def test_images_are_drawn_whole_and_nameless_samples_alone():
    (weights,) = bootstrap_weights(["a", "a", "", ""], resamples=40)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()
    assert image_index(["a", "", "", "a"])[0] == 3
    assert not list(bootstrap_weights(["a", "a"]))


def test_an_interval_needs_half_of_the_resamples():
    assert interval(np.array([1.0, np.nan, np.nan])) == (None, None)
    assert interval(np.arange(1001.0)) == pytest.approx((25.0, 975.0))


def test_means_and_rates_have_intervals_over_images():
    samples = questions(images=12)
    wrong = np.array([[float(one.outcome == "fp")] if one.target == "no" else [math.nan] for one in samples])
    [(mean, bounds)] = mean_intervals(wrong, [one.image for one in samples])
    assert mean == pytest.approx(np.nanmean(wrong))
    assert bounds == ratio_intervals(yes_no_table(samples))["hallucination_rate"]
    drawn = resampled_ratios(np.nan_to_num(wrong), np.isfinite(wrong) * 1.0, [one.image for one in samples], 7, 4000)
    assert bounds == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.03), "another seed, another implementation"
    assert mean_intervals(np.full((3, 1), np.nan), list("abc")) == [(None, (None, None))]


def test_sign_flips_by_hand():
    """Three images that all got better: of 8 ways to swap, 2 are as extreme."""
    before, after = np.zeros(3), np.ones(3)
    p = sign_flip_p((before, np.ones(3)), (after, np.ones(3)), list("abc"), flips=40_000)
    assert p == pytest.approx(2 / 8, abs=0.01)
    assert sign_flip_p((after, np.ones(3)), (after, np.ones(3)), list("abc")) == 1.0
    assert sign_flip_p((after, np.zeros(3)), (after, np.ones(3)), list("abc")) is None


def test_sign_flips_are_scipys_permutation_test_of_pairs():
    generator = random.Random(3)
    before, after = (np.array([float(generator.random() < share) for _ in range(30)]) for share in (0.4, 0.65))
    one = np.ones(30)
    found = sign_flip_p((before, one), (after, one), [str(row) for row in range(30)])

    def difference(first, second, axis):
        return np.mean(first - second, axis=axis)

    exact = scipy.stats.permutation_test(
        (before, after), difference, permutation_type="samples", vectorized=True, n_resamples=9999, rng=RNG
    )
    assert found == pytest.approx(exact.pvalue, abs=0.02)


# Logistic regression


def test_a_table_of_four_by_hand():
    """The slope of one 0/1 covariate is the log odds ratio: here (30/10)/(20/40) = 6."""
    x = np.repeat([1.0, 1.0, 0.0, 0.0], [30, 10, 20, 40])
    y = np.repeat([True, False, True, False], [30, 10, 20, 40])
    design = np.stack([x, np.ones(100)], axis=1)
    [(slope, intercept)] = fit_logistic(design, y)
    assert slope == pytest.approx(math.log(6))
    assert intercept == pytest.approx(math.log(20 / 40))


def test_the_fit_is_that_of_a_plain_optimiser_with_weights():
    design = np.stack([X, RNG.normal(size=60), np.ones(60)], axis=1)
    weights = RNG.integers(0, 3, size=(4, 60)).astype(float)
    found = fit_logistic(design, Y.astype(bool), weights)
    assert fit_logistic(design, Y.astype(bool), weights, start=np.array([1.0, -1.0, 0.5])) == pytest.approx(found)
    for row, beta in zip(weights, found, strict=True):

        def loss(beta, row=row):
            linear = design @ beta
            return (row * (np.logaddexp(0, linear) - Y * linear)).sum()

        plain = scipy.optimize.minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-8})
        assert beta == pytest.approx(plain.x, abs=1e-4)


def test_no_finite_maximum_is_nan_and_stops_no_other_fit():
    x = np.array([-2.0, -1.0, 1.0, 2.0])
    design = np.stack([x, np.ones(4)], axis=1)
    outcomes = np.array([False, True, False, True])
    weights = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [0, 1, 0, 1], [2, 1, 1, 2]], dtype=float)
    found = fit_logistic(design, outcomes, weights)
    assert np.isfinite(found).all(axis=1).tolist() == [True, False, False, True]
    assert np.isnan(fit_logistic(np.stack([x, x, np.ones(4)], axis=1), outcomes)).all(), "collinear"
    with pytest.raises(ValueError, match="expected"):
        fit_logistic(design, outcomes[:3])


# Bins


def test_quantile_bins_share_the_samples_and_merge_ties():
    bins = quantile_bins(np.arange(20.0), 4)
    assert [list(one.rows) for one in bins] == [list(range(start, start + 5)) for start in (0, 5, 10, 15)]
    assert len(quantile_bins(np.array([1.0] * 9 + [2.0]), 4)) == 2
    assert len(quantile_bins(np.full(5, 2.0), 4)) == 1
    assert quantile_bins(np.empty(0), 4) == []


def test_the_papers_bins_need_a_large_grid():
    values = np.array([3.4, 3.5, 4.0, 4.5, 4.6])
    bins = paper_bins(values, math.log(576))
    assert [(one.label, list(one.rows)) for one in bins] == [
        ("<3.5 nats", [0]), ("3.5–4.5 nats", [1, 2, 3]), (">4.5 nats", [4]),
    ]  # fmt: skip
    reason = paper_bins(values, math.log(64))
    assert "more than 90 patches" in reason
    assert "64" in reason
    assert not isinstance(paper_bins(values, math.log(91)), str)
