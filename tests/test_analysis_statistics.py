"""The statistics of `analysis` against scipy, plain definitions and examples worked by hand."""

import dataclasses
import itertools
import math
import random

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from synthetic_results import questions, record, write

from analysis.findings.forest import forest_table
from analysis.findings.frontier import frontier_table
from analysis.findings.summary import run_metrics, yes_no_metrics
from analysis.reading.load import load_results
from analysis.reading.pairs import find_pairs
from analysis.statistics.bins import paper_bins, quantile_bins
from analysis.statistics.correlation import correlate, weighted_correlation
from benchmarks.stats import (
    bootstrap_weights,
    fit_logistic,
    image_permutations,
    mean_intervals,
    permutation_p,
    resampled_ratios,
    sign_flip_p,
    unit_index,
)
from benchmarks.tasks.pope.task import PopeRandom

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
    assert (found.r, found.interval, found.p, found.p_error) == (None, (None, None), None, None)
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
    (found,) = image_permutations(images, strata)
    assert len(found) == 2, "a and b can be exchanged, and that is all"
    assert (np.sort(found, axis=1) == np.arange(9)).all()
    for row in found:
        assert [strata[source] for source in row] == strata
        assert list(row[[4, 5, 6]]) == [4, 5, 6], "no other image has the questions of c"
        swapped = images[row[0]] == "b"
        assert list(row) == ([3, 2, 1, 0, 4, 5, 6, 8, 7] if swapped else list(range(9)))
    assert sorted(images[row[0]] for row in found) == ["a", "b"]
    # Of nine images there are too many ways to try.
    (drawn,) = image_permutations([str(image) for image in range(9)], ["m"] * 9, permutations=300)
    assert len(drawn) == 300
    assert (np.sort(drawn, axis=1) == np.arange(9)).all()
    assert all(0.03 < np.mean(drawn[:, 0] == image) < 0.25 for image in range(9))
    assert not list(image_permutations(["a", "b"], ["m", "n"]))


def test_images_are_drawn_whole_and_nameless_samples_alone():
    (weights,) = bootstrap_weights(["a", "a", "", ""], resamples=40)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()
    assert unit_index(["a", "", "", "a"])[0] == 3
    assert not list(bootstrap_weights(["a", "a"]))


def test_means_have_intervals_over_images():
    samples = questions(images=12)
    wrong = np.array([[float(one.outcome == "fp")] if one.target == "no" else [math.nan] for one in samples])
    [(mean, bounds)] = mean_intervals(wrong, [one.image for one in samples])
    assert mean == pytest.approx(np.nanmean(wrong))
    drawn = resampled_ratios(
        np.nan_to_num(wrong), np.isfinite(wrong) * 1.0, [one.image for one in samples], seed=7, resamples=4000
    )
    assert bounds == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.03), "another seed"
    assert mean_intervals(np.full((3, 1), np.nan), list("abc")) == [(None, (None, None))]


def test_the_report_has_the_numbers_of_benchmarks_where_half_of_the_images_have_no_name(tmp_path):
    """One bootstrap, one unit and one interval of each kind of number: a table of either is a table of the other."""
    runs = []
    for method, samples in (("none", questions(images=20)), ("scr", questions(images=20, gain=0.6, noise=1))):
        nameless = [
            dataclasses.replace(one, image="") if int(one.image.partition(".")[0]) % 2 else one for one in samples
        ]
        scores = PopeRandom().score(nameless)
        run = record(method, metrics=scores.metrics, intervals=scores.intervals)
        write(tmp_path, run, nameless)
        runs.append((run, nameless))
    found = load_results(tmp_path).runs
    for run, (recorded, samples) in zip(found, runs, strict=True):
        assert run_metrics(run) == yes_no_metrics(run)
        assert yes_no_metrics(run)["f1"][1:] == tuple(recorded.intervals["f1"])
        assert unit_index([one.image for one in samples])[0] == 10 + 60
    (base, ours) = (samples for _, samples in runs)
    plain = PopeRandom().compare(base, ours)
    rows = {row["metric"]: row for row in forest_table(find_pairs(found).pairs).records()}
    for metric, row in rows.items():
        difference = plain.differences[metric]
        assert (row["difference"], row["difference_low"], row["difference_high"]) == (
            difference.value,
            *difference.interval,
        )
        assert row["images"] == plain.images == 70
    for row, (recorded, _) in zip(frontier_table(found)[0].records(), runs, strict=True):
        bounds = [row["hallucination_rate_low"], row["hallucination_rate_high"]]
        assert bounds == recorded.intervals["hallucination_rate"]


def test_sign_flips_by_hand():
    """Three images that all got better: of 8 ways to swap, 2 are as extreme."""
    before, after = np.zeros(3), np.ones(3)
    assert sign_flip_p((before, np.ones(3)), (after, np.ones(3)), list("abc")) == (2 / 8, 0.0)
    assert sign_flip_p((after, np.ones(3)), (after, np.ones(3)), list("abc")) == (1.0, 0.0)
    assert sign_flip_p((after, np.zeros(3)), (after, np.ones(3)), list("abc")) is None


def test_few_images_are_counted_and_not_drawn():
    generator = np.random.default_rng(3)
    x, y = generator.normal(size=6), generator.normal(size=6)
    images, strata = list("abcdef"), ["m"] * 6
    every = [np.array(order) @ y for order in itertools.permutations(x)]
    expected = np.mean(np.abs(every - np.mean(every)) >= abs(x @ y - np.mean(every)) - 1e-12)
    for seed in range(3):
        assert permutation_p(x, y, images, strata, seed=seed) == (pytest.approx(expected), 0.0)
    assert correlate(x, y, images, strata)[2:4] == (pytest.approx(expected), 0.0)
    # Six images that differ in one direction by more and more: 2 of 64 ways to swap are as extreme.
    grown = (np.arange(1.0, 7.0), np.ones(6))
    assert sign_flip_p((np.zeros(6), np.ones(6)), grown, images) == (2 / 64, 0.0)


def test_an_exchange_is_judged_from_the_exact_mean_of_all_of_them():
    """Two models whose means differ: the centre is not 0, and of few draws it would be off."""
    generator = np.random.default_rng(2)
    x = np.concatenate([generator.normal(size=9), 5 + generator.normal(size=9)])
    y = np.concatenate([generator.normal(size=9), 3 + generator.normal(size=9)])
    images, strata = [str(row % 9) for row in range(18)], ["a"] * 9 + ["b"] * 9
    few = [permutation_p(x, y, images, strata, seed=seed, permutations=60).p for seed in range(40)]
    many = permutation_p(x, y, images, strata, permutations=20_000)
    assert many.error == pytest.approx(math.sqrt(many.p * (1 - many.p) / 20_000))
    # (1 + as extreme) / (1 + drawn) is above the value by less than 1 / 61.
    assert many.p < np.mean(few) < many.p + 1 / 61 + 0.02
    errors = [permutation_p(x, y, images, strata, seed=seed, permutations=60).error for seed in range(40)]
    assert 0.1 < many.p < 0.9
    assert np.std(few) == pytest.approx(np.mean(errors), rel=0.35)


def test_sign_flips_of_more_images_than_a_float_can_count_ways_of():
    before, one = np.arange(1100) % 2, np.ones(1100)
    images = [str(row) for row in range(1100)]
    found = sign_flip_p((before, one), (1.0 - before, one), images, flips=99)
    assert found == pytest.approx((1.0, 0.0))


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
    assert found.p == pytest.approx(exact.pvalue, abs=0.02)
    assert 0 < found.error < 0.005


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
