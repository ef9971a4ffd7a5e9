"""Intervals and paired tests against plain definitions, scipy's own tests, and simulated data with known answers."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings, strategies

from benchmarks import stats
from benchmarks.records import SampleRecord
from benchmarks.stats import resampling

OUTCOMES = {("yes", "yes"): "tp", ("no", "yes"): "fp", ("no", "no"): "tn", ("yes", "no"): "fn"}


def answer(number, target, said, image=None, margin=None):
    outcome = None if said is None else OUTCOMES[target, said]
    return SampleRecord(
        id=str(number), image=image or str(number), prompt="?", target=target, output="", answer=said, outcome=outcome,
        margin=margin,
    )  # fmt: skip


def run(generator, images=40, per_image=6, shift=0.0, spread=1.5):
    """Answers whose margin shares a part with the image's other questions."""
    records = []
    for image in range(images):
        common = generator.gauss(0, 1)
        for number in range(per_image):
            target = "no" if number % 2 else "yes"
            margin = common + generator.gauss(1 if target == "yes" else -1, spread) + shift
            said = "yes" if margin > 0 else "no"
            records.append(answer(f"{image}-{number}", target, said, f"{image}.jpg", margin))
    return records


def plain_auc(margins, positives):
    pairs = [
        1.0 if one > other else 0.5 if one == other else 0.0
        for one, is_positive in zip(margins, positives, strict=True)
        if is_positive
        for other, is_other_positive in zip(margins, positives, strict=True)
        if not is_other_positive
    ]
    return sum(pairs) / len(pairs)


# Rates


def test_rates_by_hand():
    said = [("yes", "yes")] * 3 + [("no", "yes")] * 2 + [("no", "no")] * 4 + [("yes", "no")] * 1
    table = stats.yes_no_table([answer(i, *pair) for i, pair in enumerate(said)])
    assert stats.ratios(table) == pytest.approx(
        {
            "accuracy": 7 / 10,
            "precision": 3 / 5,
            "recall": 3 / 4,
            "f1": 6 / 9,
            "yes_ratio": 5 / 10,
            "hallucination_rate": 2 / 6,
        }
    )


def test_an_unparsed_answer_is_wrong_and_nothing_else():
    said = [("yes", "yes"), ("no", "no"), ("no", "yes"), ("yes", None), ("no", None)]
    values = stats.ratios(stats.yes_no_table([answer(i, *pair) for i, pair in enumerate(said)]))
    assert values["accuracy"] == pytest.approx(2 / 5)
    assert values["yes_ratio"] == pytest.approx(2 / 5)
    assert values["recall"] == 1.0
    assert values["hallucination_rate"] == pytest.approx(1 / 2)


def test_nothing_below_the_line_is_undefined_and_not_zero():
    values = stats.ratios(stats.yes_no_table([answer(i, "yes", "no") for i in range(4)]))
    assert values["precision"] is None
    assert values["hallucination_rate"] is None
    assert values["recall"] == 0.0
    assert values["f1"] == 0.0
    assert set(stats.ratios(stats.yes_no_table([])).values()) == {None}


# Bootstrap


def test_intervals_are_those_of_a_plain_bootstrap_over_images():
    records = run(random.Random(0))
    fast = stats.ratio_intervals(stats.yes_no_table(records))["f1"]
    grouped = [list(group) for _, group in itertools.groupby(records, key=lambda record: record.image)]
    counts = np.array([[sum(r.outcome == name for r in group) for name in ("tp", "fp", "fn")] for group in grouped])
    generator = np.random.default_rng(5)
    drawn = counts[generator.integers(0, len(counts), size=(4000, len(counts)))].sum(axis=1)
    expected = np.quantile(2 * drawn[:, 0] / (drawn.sum(axis=1) + drawn[:, 0]), [0.025, 0.975])
    assert fast == pytest.approx(tuple(expected), abs=0.012)


def test_the_image_is_the_unit():
    """Six times the same answer about an image says no more than one: the interval must not shrink."""
    generator = random.Random(1)
    single = [answer(i, "yes", generator.choice(("yes", "no")), image=str(i)) for i in range(60)]
    copies = [answer(f"{r.id}-{k}", r.target, r.answer, image=r.image) for r in single for k in range(6)]
    one = stats.ratio_intervals(stats.yes_no_table(single))["f1"]
    six = stats.ratio_intervals(stats.yes_no_table(copies))["f1"]
    assert six == pytest.approx(one)
    spread = [answer(r.id, r.target, r.answer, image=r.id) for r in copies]
    apart = stats.ratio_intervals(stats.yes_no_table(spread))["f1"]
    assert (apart.high - apart.low) < 0.6 * (six.high - six.low)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    hits, trials = 0, 150
    for trial in range(trials):
        generator = random.Random(trial)
        records = [answer(i, "yes", "yes" if generator.random() < 0.7 else "no", image=str(i // 2)) for i in range(160)]
        low, high = stats.ratio_intervals(stats.yes_no_table(records), resamples=400)["f1"]
        hits += low <= 2 * 0.7 / 1.7 <= high
    assert 0.88 <= hits / trials <= 0.99


def test_intervals_depend_on_the_records_and_not_on_their_order():
    records = run(random.Random(2))
    shuffled = random.Random(3).sample(records, len(records))
    one, other = stats.yes_no_table(records), stats.yes_no_table(shuffled)
    assert stats.ratio_intervals(one) == stats.ratio_intervals(one) == stats.ratio_intervals(other)
    areas = [stats.auc_interval(t.margins, t.positives, t.images) for t in (one, other)]
    assert areas[0] == pytest.approx(areas[1], abs=1e-12)
    assert stats.ratio_intervals(one, seed=1) != stats.ratio_intervals(one, seed=2)


def test_parts_of_any_size_give_the_same_resamples(monkeypatch):
    table = stats.yes_no_table(run(random.Random(4)))
    whole = stats.ratio_intervals(table), stats.auc_interval(table.margins, table.positives, table.images)
    monkeypatch.setattr(resampling, "_CELLS", 777)
    assert whole[0] == stats.ratio_intervals(table)
    assert whole[1] == pytest.approx(stats.auc_interval(table.margins, table.positives, table.images), abs=1e-12)


def test_one_image_has_no_interval():
    records = [answer(i, "yes", "yes", image="same") for i in range(6)]
    found = stats.ratio_intervals(stats.yes_no_table(records))
    assert "f1" not in found
    assert found["accuracy"] == stats.wilson(6, 6)  # of the questions, which it takes for independent
    assert stats.auc_interval([1.0, 2.0], [True, False], ["same", "same"]) is None


def test_resamples_without_a_value_are_left_out_until_they_are_most():
    assert stats.percentile_interval(np.array([0.5, np.nan, 0.5, 0.5])) == (0.5, 0.5)
    assert stats.percentile_interval(np.array([0.5, np.nan, np.nan])) is None
    assert stats.percentile_interval(np.empty(0)) is None


# Area under the curve


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_the_plain_definition_with_ties(seed):
    generator = random.Random(seed)
    margins = [generator.choice((-1.0, 0.0, 0.5, 2.0, math.inf, -math.inf)) for _ in range(50)]
    positives = [generator.random() < 0.4 for _ in margins]
    area = stats.auc(margins, positives)
    assert area == pytest.approx(plain_auc(margins, positives), abs=1e-12)
    wins = scipy.stats.mannwhitneyu(
        [m for m, p in zip(margins, positives, strict=True) if p],
        [m for m, p in zip(margins, positives, strict=True) if not p],
    )
    assert area == pytest.approx(wins.statistic / (sum(positives) * (50 - sum(positives))), abs=1e-12)


def test_auc_at_its_ends():
    assert stats.auc([3, 2, 1, 0], [1, 1, 0, 0]) == 1.0
    assert stats.auc([0, 1, 2, 3], [1, 1, 0, 0]) == 0.0
    assert stats.auc([7, 7, 7], [1, 0, 0]) == 0.5
    assert stats.auc([1, 2], [True, True]) is None
    assert stats.auc([], []) is None


def test_a_shift_of_the_threshold_changes_rates_but_not_the_area():
    before = stats.yes_no_table(run(random.Random(5)))
    after = stats.yes_no_table(run(random.Random(5), shift=-0.7))
    assert stats.ratios(before)["hallucination_rate"] > stats.ratios(after)["hallucination_rate"]
    assert stats.auc(before.margins, before.positives) == stats.auc(after.margins, after.positives)


@pytest.mark.parametrize(("margins", "positives"), [([1.0, math.nan], [1, 0]), ([1.0], [1, 0]), ([[1.0]], [[1]])])
def test_margins_that_do_not_fit_are_refused(margins, positives):
    with pytest.raises(ValueError, match="do not fit"):
        stats.auc(margins, positives)


def test_resampled_areas_are_areas_of_resampled_answers():
    records = run(random.Random(6), images=8)
    table = stats.yes_no_table(records)
    resampled = stats.resampled_auc(table.margins, table.positives, table.images, seed=0, resamples=20)
    (weights,) = stats.bootstrap_weights(table.images, seed=0, resamples=20)
    for row, area in zip(weights, resampled, strict=True):
        rows = [i for i, weight in enumerate(row) for _ in range(int(weight))]
        assert area == pytest.approx(plain_auc(table.margins[rows], table.positives[rows]), abs=1e-12)


# Single proportions and changes


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (37, 1500), (1499, 1500)])
def test_wilson_is_scipys(successes, n):
    expected = scipy.stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert stats.wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_at_its_ends():
    assert stats.wilson(0, 0) is None
    assert stats.wilson(0, 7).low == 0.0
    assert stats.wilson(7, 7).high == 1.0
    for wrong in ((-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="counts do not fit"):
            stats.wilson(*wrong)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17, 857: table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_printed(successes, n, low, high):
    assert stats.wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_a_sample_without_an_image_is_a_unit_of_its_own():
    said = [("yes", "yes")] * 3 + [("no", "yes")] * 2 + [("no", "no")] * 4 + [("yes", "no")] * 1
    nameless = [dataclasses.replace(answer(i, *pair), image="") for i, pair in enumerate(said)]
    found = stats.ratio_intervals(stats.yes_no_table(nameless))["f1"]
    assert found == stats.ratio_intervals(stats.yes_no_table([answer(i, *pair) for i, pair in enumerate(said)]))["f1"]
    assert stats.compare_yes_no(nameless, nameless).images == 10


def test_rates_have_wilsons_interval():
    said = [("yes", "yes")] * 3 + [("no", "yes")] * 2 + [("no", "no")] * 4 + [("yes", "no")] * 1
    records = [answer(i, *pair) for i, pair in enumerate(said)]
    found = stats.ratio_intervals(stats.yes_no_table(records))
    assert found["accuracy"] == stats.wilson(7, 10)
    assert found["precision"] == stats.wilson(3, 5)
    assert found["hallucination_rate"] == stats.wilson(2, 6)
    # Without a positive there is no recall, and nothing to take an interval of.
    negatives = stats.yes_no_table([record for record in records if record.target == "no"])
    assert "recall" not in stats.ratio_intervals(negatives)


# Several tests, small tests


def test_holm_by_hand():
    # 4 × 0.005; 3 × 0.01; 2 × 0.03; 1 × 0.04, which may not be below the one before.
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.5, 0.9, 0.0]) == [1.0, 1.0, 0.0]
    assert stats.holm([0.03]) == [0.03]
    assert stats.holm([]) == []
    with pytest.raises(ValueError, match="no probability"):
        stats.holm([0.5, 1.01])


@given(strategies.lists(strategies.floats(0, 1), max_size=6), strategies.floats(0.001, 1))
@settings(max_examples=50)
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values, level):
    rejected = set()
    for index in sorted(range(len(p_values)), key=lambda i: p_values[i]):
        if (len(p_values) - len(rejected)) * p_values[index] > level:
            break
        rejected.add(index)
    assert {i for i, p in enumerate(stats.holm(p_values)) if p <= level} == rejected or level == 1


def plain_power(n, share, delta):
    """The probability that `mcnemar_exact` is at most 5 %, summed over all counts of both changes."""
    up, down = (share + delta) / 2, (share - delta) / 2
    power = 0.0
    for won in range(n + 1):
        for lost in range(n + 1 - won):
            if stats.mcnemar_exact(won, lost) <= 0.05:
                ways = math.comb(n, won) * math.comb(n - won, lost)
                power += ways * up**won * down**lost * (1 - share) ** (n - won - lost)
    return power


@pytest.mark.parametrize(("n", "share"), [(6, 0.3), (12, 0.9), (25, 0.2), (40, 0.35), (60, 0.1), (60, 0.0)])
def test_the_detectable_difference_is_the_least_that_the_exact_test_finds_four_times_in_five(n, share):
    delta = stats.detectable_difference(n, share)
    assert plain_power(n, max(share, delta), delta) == pytest.approx(0.8, abs=1e-6)
    assert plain_power(n, max(share, delta), delta) >= 0.8
    less = 0.99 * delta
    assert plain_power(n, share if share >= delta else less, less) < 0.8


def test_the_detectable_difference_is_found_in_drawn_experiments():
    n, share = 180, 0.2
    delta = stats.detectable_difference(n, share)
    generator = np.random.default_rng(0)
    drawn = generator.multinomial(n, [(share + delta) / 2, (share - delta) / 2, 1 - share], size=1000)
    found = np.mean([stats.mcnemar_exact(int(won), int(lost)) <= 0.05 for won, lost, _ in drawn])
    assert found == pytest.approx(0.8, abs=0.03)


def test_the_detectable_difference_at_its_ends():
    assert stats.detectable_difference(0, 0.0) is None
    assert stats.detectable_difference(5, 1.0) is None, "of five changes, all in one direction, p is 0.06"
    assert 0.9 < stats.detectable_difference(6, 0.0) < 1
    # Connor's formula (1987, Biometrics 43, 207) is that of the test without correction, and close to it for large n.
    level, power = scipy.stats.norm.ppf([0.975, 0.8])
    delta = stats.detectable_difference(3000, 0.2)
    needed = (level * math.sqrt(0.2) + power * math.sqrt(0.2 - delta**2)) ** 2 / delta**2
    assert needed == pytest.approx(3000, rel=0.04)
    values = [stats.detectable_difference(n, 0.3) for n in (20, 50, 200, 1000)]
    assert values == sorted(values, reverse=True)
    for wrong in ((-1, 0.1), (10, 1.1), (10, -0.1)):
        with pytest.raises(ValueError, match="out of range"):
            stats.detectable_difference(*wrong)


@pytest.mark.parametrize("counts", [(0, 1), (1, 5), (5, 5), (0, 12), (30, 55), (400, 300)])
def test_mcnemar_is_the_binomial_test(counts):
    expected = scipy.stats.binomtest(counts[0], sum(counts)).pvalue
    assert stats.mcnemar_exact(*counts) == stats.mcnemar_exact(*reversed(counts)) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_without_changes():
    assert stats.mcnemar_exact(0, 0) == 1.0
    with pytest.raises(ValueError, match="negative"):
        stats.mcnemar_exact(-1, 2)


# Two runs


def test_comparison_counts_by_hand():
    before = [("yes", "yes"), ("yes", "no"), ("no", "yes"), ("no", "no"), ("no", "no"), ("yes", None)]
    after = [("yes", "no"), ("yes", "yes"), ("no", "no"), ("no", "no"), ("no", None), ("yes", "no")]
    found = stats.compare_yes_no(
        [answer(i, *pair, margin=float(i)) for i, pair in enumerate(before)],
        [answer(i, *pair, margin=float(-i)) for i, pair in enumerate(after)],
    )
    # right → wrong: 0 and 4; wrong → right: 1 and 2; 5 changed from unparsed to wrong; 3 did not change.
    assert (found.n, found.images, found.unpaired) == (6, 6, 0)
    assert (found.changed, found.right_to_wrong, found.wrong_to_right) == (5, 2, 2)
    assert found.mcnemar_p == 1.0
    assert found.differences["accuracy"].value == pytest.approx(0.0)
    assert found.differences["yes_ratio"].value == pytest.approx(1 / 6 - 2 / 6)


def test_equal_runs_differ_by_nothing():
    records = run(random.Random(7))
    found = stats.compare_yes_no(records, records)
    assert (found.changed, found.right_to_wrong, found.wrong_to_right, found.mcnemar_p) == (0, 0, 0, 1.0)
    assert {(d.value, d.interval) for d in found.differences.values()} == {(0.0, (0.0, 0.0))}


def test_differences_are_paired():
    """The image's common part cancels out: the interval is narrower than that of two runs on other images."""
    before, after = run(random.Random(8), 200, spread=0.3), run(random.Random(8), 200, spread=0.3, shift=-0.2)
    difference = stats.compare_yes_no(before, after).differences["hallucination_rate"]
    assert difference.interval.high < 0
    assert difference.interval.low <= difference.value <= difference.interval.high
    alone = [stats.ratio_intervals(stats.yes_no_table(r))["hallucination_rate"] for r in (before, after)]
    unpaired = math.hypot(*(interval.high - interval.low for interval in alone))
    assert difference.interval.high - difference.interval.low < 0.7 * unpaired


def test_the_order_of_either_run_does_not_matter():
    before, after = run(random.Random(9)), run(random.Random(10))
    one = stats.compare_yes_no(before, after)
    other = stats.compare_yes_no(before[::-1], random.Random(0).sample(after, len(after)))
    assert (one.changed, one.wrong_to_right, one.mcnemar_p) == (other.changed, other.wrong_to_right, other.mcnemar_p)
    for name, difference in one.differences.items():
        assert other.differences[name].value == pytest.approx(difference.value, abs=1e-12)
        assert other.differences[name].interval == pytest.approx(difference.interval, abs=1e-12)


def test_only_shared_samples_are_compared_and_the_rest_is_counted():
    before, after = run(random.Random(11), images=10), run(random.Random(12), images=6)
    found = stats.compare_yes_no(before, after)
    assert (found.n, found.images, found.unpaired) == (36, 6, 24)
    assert found == stats.Comparison(**{**vars(stats.compare_yes_no(before[:36], after)), "unpaired": 24})


def test_margins_of_one_run_only_leave_the_area_out():
    before = run(random.Random(13))
    after = [SampleRecord(**{**vars(record), "margin": None}) for record in before]
    found = stats.compare_yes_no(before, after)
    assert "auc" not in found.differences
    assert found.reasons["auc"] == "margins are missing in the method"


def test_a_metric_undefined_in_one_run_is_left_out_with_a_reason():
    before = [answer(i, "no", "no") for i in range(5)]
    after = [answer(i, "no", "yes") for i in range(5)]
    found = stats.compare_yes_no(before, after)
    assert "precision" not in found.differences
    assert found.reasons["precision"] == "undefined for the baseline"
    assert found.differences["hallucination_rate"].value == 1.0


def test_runs_that_cannot_be_paired_are_refused():
    records = [answer(i, "yes", "yes") for i in range(3)]
    with pytest.raises(ValueError, match="share no sample"):
        stats.compare_yes_no(records, [answer("x", "yes", "yes")])
    with pytest.raises(ValueError, match=r"occurs twice: got \['1'\]"):
        stats.compare_yes_no(records, [records[0], records[1], records[1]])
    with pytest.raises(ValueError, match="not the same in both runs"):
        stats.compare_yes_no(records, [answer(0, "no", "no")])
    with pytest.raises(ValueError, match="not the same in both runs"):
        stats.compare_yes_no(records, [answer(0, "yes", "no", image="another")])
    captions = stats.SampleTable(
        ids=["0"], images=["0"], metrics=("chair_i",), numerators=np.ones((1, 1)), denominators=np.ones((1, 1)),
        correct=np.ones(1, dtype=bool), answers=[""],
    )  # fmt: skip
    with pytest.raises(ValueError, match="different tasks"):
        stats.compare_tables(stats.yes_no_table(records), captions)


def test_three_splits_take_less_than_a_second():
    runs = [(run(random.Random(i), 100), run(random.Random(i), 100, shift=0.1)) for i in range(3)]
    times = []
    for _ in range(3):  # the best of three: the machine may be busy with something else
        start = time.process_time()
        for before, after in runs:
            stats.compare_yes_no(before, after)
        times.append(time.process_time() - start)
    assert min(times) < 1.0


def test_it_needs_no_torch():
    code = "import sys, benchmarks.stats; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
