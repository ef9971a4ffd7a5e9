"""Entropy against hallucination on synthetic records whose effects are known."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats
from synthetic_results import answer, questions, record, write

from analysis.entropy import analyse_entropy, entropy_findings, main, plot_entropy
from analysis.findings.entropy_bins import entropy_bins
from analysis.findings.entropy_correlation import POOLED, WITHIN, entropy_correlations
from analysis.findings.entropy_logistic import entropy_logistic
from analysis.reading.load import NothingToShowError, load_results
from analysis.reading.rows import absent_rows, baseline_runs
from analysis.reading.trace import number
from analysis.statistics.bins import PAPER_EDGES


def runs_of(folder, **models):
    for model, samples in models.items():
        write(folder, record(model=f"lab/{model}"), samples)
    return load_results(folder).runs


def rows_of(table, **wanted):
    return [row for row in table.records() if all(row[name] == value for name, value in wanted.items())]


def test_rows_are_questions_about_absent_objects(tmp_path):
    samples = questions(images=5)
    samples[1] = answer(samples[1].id, samples[1].image, "no", None, samples[1].trace)
    samples[3] = dataclasses.replace(samples[3], trace={"entropy": None})
    rows = absent_rows(runs_of(tmp_path, llava=samples))
    assert len(rows.values) == 5 * 3 - 2
    assert any("1 unparsed answers" in note for note in rows.notes)
    assert any("1 of 14 questions have no attention entropy" in note for note in rows.notes)
    kept = [one for one in samples if one.outcome in ("fp", "tn") and math.isfinite(number(one, "entropy"))]
    assert rows.values.tolist() == [number(one, "entropy") for one in kept]
    assert rows.hallucinated.tolist() == [one.outcome == "fp" for one in kept]
    present = [number(one, "object", "area") for one in samples if one.image == "4.jpg" and one.target == "yes"]
    assert rows.size[-1] == pytest.approx(np.mean(present)), "an absent object has no size of its own"
    assert rows.largest == {"lab/llava": math.log(144)}
    assert set(rows.strata) == {"lab/llava\npope_random"}
    with pytest.raises(ValueError, match="unknown measure"):
        absent_rows([], "heat")


def test_correlations_are_scipys_and_have_the_sign_of_the_effect(tmp_path):
    rows = absent_rows(runs_of(tmp_path, llava=questions(images=60)))
    table, notes = entropy_correlations(rows, 300)
    pearson, spearman = table.records()
    assert pearson["r"] == pytest.approx(scipy.stats.pearsonr(rows.values, rows.hallucinated).statistic)
    assert spearman["r"] == pytest.approx(scipy.stats.spearmanr(rows.values, rows.hallucinated).statistic)
    assert -1 < pearson["r_low"] < pearson["r"] < pearson["r_high"] < 0
    assert pearson["p"] < 0.05
    assert (pearson["questions"], pearson["images"]) == (180, 60)
    assert notes == ["One model only, lab/llava: nothing is pooled, and nothing is said about other models."]


def test_pooled_and_within_of_other_signs_are_told_apart(tmp_path):
    """Each model hallucinates less at more entropy, but the model with more entropy hallucinates more."""
    runs = runs_of(
        tmp_path,
        one=questions(entropy_at=3.0, shift=-1.5, slope=-1.5),
        two=questions(entropy_at=5.0, shift=1.5, slope=-1.5),
    )
    result = analyse_entropy(runs, resamples=300)
    r = {(row["scope"], row["kind"]): row["r"] for row in result.correlations.records()}
    assert r[POOLED, "Pearson"] > 0 > r[WITHIN, "Pearson"]
    assert r["lab/one", "Pearson"] < 0 > r["lab/two", "Spearman"]
    words = [note for note in result.notes if "pooled r" in note]
    assert len(words) == 2
    assert all("THE SIGNS DIFFER" in word for word in words)
    plot = plot_entropy(result)
    assert "within models" in plot.figure.axes[0].get_title(loc="left")
    # The bars are the binned table's intervals, whose note says whose they are.
    assert all("Wilson's" in text for text in (plot.caption, *plot.data.notes))


def test_equal_signs_are_said_too(tmp_path):
    runs = runs_of(tmp_path, one=questions(), two=questions(seed=5))
    assert sum("same sign" in note for note in analyse_entropy(runs, resamples=100).notes) == 2


def test_bins_hold_the_rates(tmp_path):
    rows = absent_rows(runs_of(tmp_path, llava=questions(images=60)))
    table, notes = entropy_bins(rows, 300)
    quantiles = rows_of(table, cut="quantiles")
    assert len(quantiles) == 10
    assert sum(row["questions"] for row in quantiles) == 180
    assert quantiles[0]["rate"] > quantiles[-1]["rate"]
    paper = rows_of(table, cut="paper")
    assert [row["bin"] for row in paper] == ["<3.5 nats", "3.5–4.5 nats", ">4.5 nats"]
    low = rows.hallucinated[rows.values < PAPER_EDGES[0]]
    assert paper[0]["rate"] == pytest.approx(low.mean())
    (trend,) = notes
    means, rates = (np.array([row[name] for row in quantiles]) for name in ("mean", "rate"))
    assert f"over 10 bins r = {scipy.stats.pearsonr(means, rates).statistic:+.2f}" in trend


def test_small_grids_have_no_nats_bins(tmp_path):
    samples = [dataclasses.replace(one, trace={**one.trace, "grids": [[8, 8]]}) for one in questions(entropy_at=3)]
    result = analyse_entropy(runs_of(tmp_path, llava=samples), resamples=50)
    assert not rows_of(result.binned, cut="paper")
    assert any("these grids have 64" in note for note in result.notes)


def test_the_regression_finds_entropy_and_not_what_does_nothing(tmp_path):
    rows = absent_rows(runs_of(tmp_path, one=questions(images=80), two=questions(images=80, seed=1)))
    table, notes = entropy_logistic(rows, 300)
    found = {(row["scope"], row["covariate"]): row for row in table.records()}
    assert {scope for scope, _ in found} == {"lab/one", "lab/two", WITHIN}
    for scope in ("lab/one", "lab/two", WITHIN):
        entropy = found[scope, "entropy"]
        assert entropy["odds_ratio_low"] < entropy["odds_ratio"] < entropy["odds_ratio_high"] < 1
    assert found[WITHIN, "objects"]["odds_ratio_low"] < 1 < found[WITHIN, "objects"]["odds_ratio_high"]
    assert (found[WITHIN, "size"]["questions"], found[WITHIN, "size"]["images"]) == (480, 80)
    assert notes == []


def test_the_odds_ratio_of_one_deviation_by_hand(tmp_path):
    """Two levels of entropy in equal parts: one deviation is half of their distance, so the square is the table's."""
    samples = []
    for number_, (entropy, yes) in enumerate(
        [(2.0, True)] * 30 + [(2.0, False)] * 10 + [(4.0, True)] * 10 + [(4.0, False)] * 30
    ):
        samples.append(answer(str(number_), f"{number_}.jpg", "no", 1.0 if yes else -1.0, {"entropy": entropy}))
    table, notes = entropy_logistic(absent_rows(runs_of(tmp_path, llava=samples)), 200)
    (row,) = table.records()
    assert row["odds_ratio"] ** 2 == pytest.approx((10 * 10) / (30 * 30))
    assert row["deviation"] == pytest.approx(1.0)
    assert sum("no covariate" in note for note in notes) == 2, "neither count nor size is recorded"


def test_constant_entropy_is_said_and_nothing_is_nan(tmp_path):
    samples = [dataclasses.replace(one, trace={**one.trace, "entropy": 4.0}) for one in questions()]
    result = analyse_entropy(runs_of(tmp_path, llava=samples), resamples=50)
    assert {row["r"] for row in result.correlations.records()} == {None}
    assert any("one value, 4," in note for note in result.notes)
    assert any("too few for a trend" in note for note in result.notes)
    assert any("entropy is the same for all questions and no covariate" in note for note in result.notes)
    for table in (result.correlations, result.binned, result.logistic):
        assert "nan" not in table.to_csv()
    assert plot_entropy(result).figure.axes[0].lines


@pytest.mark.parametrize("margin", [1.0, -1.0])
def test_one_class_is_said(tmp_path, margin):
    samples = [answer(one.id, one.image, one.target, margin, one.trace) for one in questions()]
    result = analyse_entropy(runs_of(tmp_path, llava=samples), resamples=50)
    assert any("y has one value" in note for note in result.notes)
    assert any("all answers are the same" in note for note in result.notes)
    assert any("the same in all 10 bins" in note for note in result.notes)
    assert result.logistic.rows == ()


def test_separated_answers_have_no_odds_ratio(tmp_path):
    samples = [
        answer(one.id, one.image, one.target, 4.0 - number(one, "entropy"), {"entropy": number(one, "entropy")})
        for one in questions()
    ]
    result = analyse_entropy(runs_of(tmp_path, llava=samples), resamples=50)
    assert any("no finite maximum" in note for note in result.notes)


def test_one_baseline_per_model_and_task_is_used_and_the_others_named(tmp_path):
    write(tmp_path, record(), questions(images=3))
    write(tmp_path, record(prompt="cot"), questions(images=3))
    write(tmp_path, record(generation={"do_sample": True}), questions(images=5))
    write(tmp_path, record("scr"), questions(images=3))
    (run,), (note,) = baseline_runs(load_results(tmp_path).runs)
    assert run.record.prompt == "default"
    assert run.record.generation == {"do_sample": False}
    assert "3 baselines" in note


def test_without_diagnostics_the_command_says_how_to_get_them(tmp_path, capsys):
    write(tmp_path, record(), questions(images=3, traced=False))
    with pytest.raises(NothingToShowError, match="--diagnostics entropy"):
        entropy_findings(load_results(tmp_path).runs)
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "left out: entropy: no record holds the attention entropy" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_writes_figures_and_their_tables(tmp_path, capsys):
    runs_of(tmp_path / "results", one=questions(images=8), two=questions(images=8, seed=4))
    assert main([str(tmp_path / "results"), "--out", str(tmp_path / "out"), "--formats", "svg"]) == 0
    shown = capsys.readouterr().out
    assert "| lab/one | Pearson |" in shown
    assert "within models" in shown
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"entropy_bins.svg", "entropy_bins.csv", "entropy_correlation.tex", "entropy_logistic.md"} <= names
    assert "credit_entropy_norms_bins.svg" in names
    assert "credit_entropy_gradients_bins.svg" not in names, "null in all records"
