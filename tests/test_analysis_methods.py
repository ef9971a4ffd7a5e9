"""What methods change: by entropy, by threshold, by object, by field; on synthetic records whose effects are known."""

import dataclasses
import random

import numpy as np
import pytest
import scipy.stats
from synthetic_results import answer, questions, record, write

from analysis.findings.ablations import ablation_findings, ablation_table, find_sweeps, plot_ablations
from analysis.findings.credit import credit_findings, credit_table, plot_credit
from analysis.findings.failures import (
    BORDER,
    co_occurrence,
    failure_findings,
    failure_strata,
    failure_table,
    plot_failures,
)
from analysis.findings.forest import compare_p, forest_findings, forest_table, metric_p, plot_forest
from analysis.findings.frontier import frontier_findings, frontier_table, pareto_set, plot_frontier
from analysis.findings.roc import (
    accuracy_at_yes_ratio,
    matched_change,
    plot_roc,
    reading,
    roc_curve,
    roc_findings,
    roc_tables,
)
from analysis.findings.strata import plot_strata, strata_findings, strata_tables
from analysis.findings.summary import run_metrics, summary_findings, summary_tables, yes_no_metrics
from analysis.reading.load import NothingToShowError, load_results
from analysis.reading.pairs import compare_rates, yes_no_pairs
from benchmarks.stats import auc, compare_yes_no, holm, ratios, yes_no_table

BASE = questions(images=60)


def results(folder, *rows, baseline=BASE):
    write(folder, record(), baseline)
    for run, samples in rows:
        write(folder, run, samples)
    return load_results(folder).runs


def pairs(folder, *rows, baseline=BASE):
    return yes_no_pairs(results(folder, *rows, baseline=baseline)).pairs


# Paired differences


def test_the_forest_has_the_differences_of_benchmarks(tmp_path):
    better, noise = questions(images=60, gain=1.0), questions(images=60, noise=1)
    table = forest_table(pairs(tmp_path, (record("scr"), better), (record("vcd"), noise)))
    plain = compare_yes_no(BASE, better)
    rows = {(row["row"], row["metric"]): row for row in table.records()}
    for metric in ("hallucination_rate", "accuracy", "recall", "yes_ratio", "auc"):
        one = rows["scr", metric]
        assert (one["difference"], one["difference_low"], one["difference_high"]) == (
            plain.differences[metric].value, *plain.differences[metric].interval,
        )  # fmt: skip
        assert (one["wrong→right"], one["right→wrong"]) == (plain.wrong_to_right, plain.right_to_wrong)
    assert rows["scr", "auc"]["p"] is None
    rates = compare_rates(BASE, better)
    assert rates.differences == {name: one for name, one in plain.differences.items() if name != "auc"}
    assert rows["scr", "accuracy"]["survives"] is True
    assert rows["vcd", "accuracy"]["survives"] is False
    p = [rows[name, "accuracy"]["p"] for name in ("scr", "vcd")]
    assert [rows[name, "accuracy"]["p_holm"] for name in ("scr", "vcd")] == holm(p)
    p_and_error = compare_p(BASE, noise, "accuracy")
    assert (p[1], rows["vcd", "accuracy"]["p_error"]) == p_and_error
    assert p_and_error == metric_p(yes_no_table(BASE), yes_no_table(noise), "accuracy")
    assert (
        "2 of 4 differences"
        in forest_findings(results(tmp_path / "again", (record("scr"), better), (record("vcd"), noise)))[0].notes[0]
    )
    figure = plot_forest(table).figure
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "pope_random · scr",
        "pope_random · vcd",
    ]


def test_captions_are_said_to_have_no_paired_differences(tmp_path):
    caption = dataclasses.replace(BASE[0], outcome=None, answer=None, target=["dog"], margin=None)
    write(tmp_path, record(task="chair"), [caption])
    runs = results(tmp_path, (record("scr"), questions(images=60, noise=1)))
    assert any(note.startswith("chair: no paired differences") for note in forest_findings(runs)[0].notes)


# Entropy


def _helped_where_entropy_is_low():
    """Right answers wherever the entropy is below 4."""
    return [
        answer(one.id, one.image, one.target, 2.0 if one.target == "yes" else -2.0, one.trace, one.prompt)
        if one.trace["entropy"] < 4
        else one
        for one in BASE
    ]


def test_gains_by_entropy(tmp_path):
    found = pairs(
        tmp_path, (record("scr"), _helped_where_entropy_is_low()), (record("vcd"), questions(images=60, noise=1))
    )
    table, contrast, notes = strata_tables(found)
    rows = [row for row in table.records() if (row["row"], row["cut"]) == ("scr", "quantiles")]
    assert len(rows) == 4
    assert sum(row["questions"] for row in rows) == len(BASE)
    low = [
        number
        for number, one in enumerate(BASE)
        if one.trace["entropy"] <= np.quantile([s.trace["entropy"] for s in BASE], 0.25)
    ]
    wrong = np.mean([BASE[number].outcome in ("fp", "fn") for number in low])
    assert rows[0]["accuracy_gain"] == pytest.approx(wrong)
    assert rows[0]["right→wrong"] == 0
    assert rows[0]["hallucination_change"] < 0
    assert rows[-1]["accuracy_gain"] == 0
    readings = {(row["row"], row["cut"]): row for row in contrast.records()}
    one = readings["scr", "quantiles"]
    assert one["difference"] == pytest.approx(rows[0]["accuracy_gain"])
    assert 0 < one["difference_low"] < one["difference"] < one["difference_high"]
    assert one["reading"] == "gains more where entropy is low"
    assert {row["bin"] for row in table.records() if row["cut"] == "paper"} == {
        "<3.5 nats",
        "3.5–4.5 nats",
        ">4.5 nats",
    }
    assert readings["vcd", "quantiles"]["reading"] == "no difference found"
    assert notes == []
    figure = plot_strata(table).figure
    assert figure.axes[0].get_title() == "lab/llava · pope_random"


def test_a_stratum_of_few_images_has_no_contrast(tmp_path):
    few = questions(images=12)
    _, contrast, _ = strata_tables(pairs(tmp_path, (record("scr"), questions(images=12, gain=1)), baseline=few))
    assert {row["reading"] for row in contrast.records()} == {"fewer than 10 images in a stratum: no interval"}


def test_without_entropy_there_are_no_strata(tmp_path):
    bare = [dataclasses.replace(one, trace=None) for one in BASE]
    with pytest.raises(NothingToShowError, match="no strata of entropy"):
        strata_findings(results(tmp_path, (record("scr"), BASE), baseline=bare))
    constant = [dataclasses.replace(one, trace={"entropy": 4.0}) for one in BASE]
    _, _, notes = strata_tables(pairs(tmp_path / "constant", (record("scr"), BASE), baseline=constant))
    assert any("one stratum only" in note for note in notes)
    assert any("no trace tells the size" in note for note in notes)


# Threshold or discrimination


def test_a_curve_by_hand():
    margins = [("yes", 3.0), ("no", 2.0), ("yes", 1.0), ("no", 1.0), ("no", -1.0)]
    curve = roc_curve([answer(str(i), str(i), target, margin) for i, (target, margin) in enumerate(margins)])
    assert curve.false_positive_rate.tolist() == pytest.approx([0, 0, 1 / 3, 2 / 3, 1])
    assert curve.true_positive_rate.tolist() == [0, 0.5, 0.5, 1, 1]
    assert curve.operating_point == (2 / 3, 1.0)
    assert roc_curve([answer("a", "a", "yes", 1.0)]) is None
    assert roc_curve([answer("a", "a", "yes", 1.0), answer("b", "b", "no", None)]) is None


def test_the_area_below_the_curve_is_the_auc():
    curve = roc_curve(BASE)
    area = np.trapezoid(curve.true_positive_rate, curve.false_positive_rate)
    assert area == pytest.approx(auc([one.margin for one in BASE], [one.target == "yes" for one in BASE]))
    values = [[one.margin for one in BASE if one.target == target] for target in ("yes", "no")]
    assert area == pytest.approx(scipy.stats.mannwhitneyu(*values).statistic / len(values[0]) / len(values[1]))


def test_accuracy_at_a_yes_ratio_by_hand():
    margins, positives = np.array([3.0, 2.0, 1.0, 1.0, 0.0]), np.array([True, False, True, False, False])
    one = np.ones((1, 5))
    found = [
        float(accuracy_at_yes_ratio(margins, positives, np.array([ratio]), one)[0])
        for ratio in (0, 0.2, 0.4, 0.6, 0.8, 1)
    ]
    # Of the two tied samples one is right to say yes and one is not: half of them in expectation.
    assert found == pytest.approx([3 / 5, 4 / 5, 3 / 5, 3 / 5, 3 / 5, 2 / 5])
    weights = np.array([[2.0, 0, 1, 0, 3]])
    repeated = np.repeat(np.arange(5), [2, 0, 1, 0, 3])
    for ratio in (1 / 6, 1 / 2):
        plain = accuracy_at_yes_ratio(margins[repeated], positives[repeated], np.array([ratio]), np.ones((1, 6)))
        assert accuracy_at_yes_ratio(margins, positives, np.array([ratio]), weights) == pytest.approx(plain)


def test_a_moved_threshold_and_a_better_model_look_different(tmp_path):
    shifted, better = questions(images=60, shift=-1.0), questions(images=60, gain=1.0)
    found = pairs(tmp_path, (record("shifted"), shifted), (record("better"), better))
    table, curves, notes = roc_tables(found)
    rows = {row["row"]: row for row in table.records()}
    assert notes == []
    assert rows["none"]["reading"] is None
    assert rows["shifted"]["auc_change"] == pytest.approx(0)
    assert rows["shifted"]["matched_accuracy_change"] == pytest.approx(0), "the same ranking"
    assert rows["shifted"]["reading"] == "moved threshold: says yes less often, no difference in ranking found"
    assert rows["better"]["matched_accuracy_change_low"] > 0
    assert rows["better"]["reading"].startswith("ranks better")
    assert rows["shifted"]["false_positive_rate"] == ratios(yes_no_table(shifted))["hallucination_rate"]
    change, bounds = matched_change(next(pair for pair in found if pair.row == "better"))
    assert change == rows["better"]["matched_accuracy_change"]
    assert bounds[0] < change < bounds[1]
    axis = plot_roc(curves).figure.axes[0]
    markers = [line for line in axis.lines if line.get_marker() not in ("None", "") and len(line.get_xdata())]
    assert {(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in markers} == {
        (row["false_positive_rate"], row["true_positive_rate"]) for row in rows.values()
    }


def test_the_baselines_curve_is_that_of_all_its_samples(tmp_path):
    table, curves, _ = roc_tables(pairs(tmp_path, (record("scr"), BASE[:120]), (record("vcd"), BASE)))
    rows = {row["row"]: row for row in table.records()}
    assert rows["none"]["auc"] == rows["vcd"]["auc"] != rows["scr"]["auc"]
    assert sum(row["row"] == "none" and bool(row["operating_point"]) for row in curves.records()) == 1


def test_what_intervals_say():
    nothing, up, down = (-0.1, 0.1), (0.1, 0.2), (-0.2, -0.1)
    assert reading(nothing, nothing) == "no difference found"
    assert reading(down, nothing) == "ranks worse"
    assert reading(up, up) == "ranks better, and says yes more often"
    assert reading((None, None), up) == "too few images to tell"


def test_without_margins_there_is_no_curve(tmp_path):
    bare = [dataclasses.replace(one, margin=None) for one in BASE]
    with pytest.raises(NothingToShowError, match="no ROC curve"):
        roc_findings(results(tmp_path, (record("scr"), bare)))


# Failures


def test_failures_are_divided_by_what_is_asked(tmp_path):
    small_missed = [
        answer(one.id, one.image, "yes", -1.0, one.trace, one.prompt)
        if one.target == "yes" and one.trace["object"]["area"] < 0.1
        else one
        for one in BASE
    ]
    table, notes = failure_table(results(tmp_path, (record("scr"), small_missed)))
    rows = {(row["row"], row["by"], str(row["bin"]).partition(" (")[0]): row for row in table.records()}
    small = [one for one in BASE if one.target == "yes"]
    edge = np.quantile([one.trace["object"]["area"] for one in small], 1 / 3)
    small = [one for one in small if one.trace["object"]["area"] <= edge]
    assert rows["none", "object size", "small"]["questions"] == len(small)
    missed = np.mean([one.outcome == "fn" for one in small])
    assert rows["none", "object size", "small"]["wrong"] == pytest.approx(missed)
    assert rows["none", "object size", "small"]["change"] is None
    assert rows["scr", "object size", "small"]["wrong"] > 0.7
    assert rows["scr", "object size", "large"]["change"] == 0
    one = rows["scr", "object size", "small"]
    assert one["right→wrong"] / one["questions"] == pytest.approx(one["change"])
    assert one["wrong→right"] == 0
    border = [one for one in BASE if one.target == "yes" and one.trace["object"]["border"] <= BORDER]
    assert rows["none", "position", "border"]["questions"] == len(border)
    assert rows["none", "co-occurrence", "frequent"]["kind"] == "hallucinated"
    assert notes == []
    axes = plot_failures(table).figure.axes
    assert [axis.get_title() for axis in axes if axis.get_visible()] == [
        f"pope_random · {by}" for by in ("object size", "position", "co-occurrence")
    ]


def test_co_occurrence_by_hand():
    def ask(image, target, name):
        return answer(f"{image}{name}", image, target, 1.0, None, f"{name}?")

    samples = [
        ask("a", "yes", "dog"), ask("a", "yes", "cat"), ask("b", "yes", "dog"), ask("b", "yes", "cup"),
        ask("c", "yes", "dog"), ask("a", "no", "cup"), ask("c", "no", "cat"), ask("c", "no", "ufo"),
        ask("d", "no", "cat"),
    ]  # fmt: skip
    # a: of the other images with a dog (b, c) one has a cup; its cat is alone. c: of the other two one has a cat.
    assert co_occurrence(samples) == pytest.approx([1 / 2, 1 / 2, np.nan, np.nan], nan_ok=True)


def test_records_that_do_not_tell_are_said(tmp_path):
    bare = [answer(one.id, one.image, one.target, one.margin, None, f"{one.id}?") for one in BASE]
    strata, notes = failure_strata(bare)
    assert strata == []
    names = ("object size", "position", "co-occurrence")
    assert [note.partition(":")[0] for note in notes] == [f"not by {name}" for name in names]
    with pytest.raises(NothingToShowError, match="no failures to divide"):
        failure_findings(results(tmp_path, baseline=bare))
    alone = failure_findings(results(tmp_path / "alone"))
    assert alone[0].tables[0].rows, "a baseline alone has failures too"


# Ablations


def _sweep_runs():
    rows = []
    for scale, k in ((1.1, 32), (1.0, 32), (1.5, 32), (1.1, 8), (1.5, 8)):
        given = {
            name: value
            for name, value in (("scale", scale), ("k", k))
            if (name, value) not in (("scale", 1.1), ("k", 32))
        }
        samples = questions(images=60, gain=2 * (scale - 1), noise=k)
        rows.append((record("scr", config={"scale": scale, "k": k}, config_given=given), samples))
    return rows


def test_a_sweep_is_found_and_compared_with_its_reference(tmp_path):
    rows = _sweep_runs()
    found = pairs(tmp_path, *rows, (record("vcd"), questions(images=60, noise=1)))
    (sweep,) = find_sweeps(found)
    assert sweep.reference.method.record.config == {"scale": 1.1, "k": 32}
    assert {name: [value for value, _ in runs] for name, runs in sweep.factors.items()} == {
        "k": [8, 32], "scale": [1.0, 1.1, 1.5],
    }  # fmt: skip
    assert [pair.method.record.config for pair in sweep.others] == [{"scale": 1.5, "k": 8}]
    table = ablation_table([sweep])
    assert len(table.rows) == 2 * 5
    cells = {(row["metric"], row["factor"], row["value"]): row for row in table.records()}
    strong = cells["hallucination_rate", "scale", 1.5]
    plain = compare_yes_no(rows[0][1], rows[2][1]).differences["hallucination_rate"]
    assert (strong["change"], strong["change_low"], strong["change_high"]) == (plain.value, *plain.interval)
    assert strong["rate"] == ratios(yes_no_table(rows[2][1]))["hallucination_rate"]
    assert strong["baseline"] == ratios(yes_no_table(BASE))["hallucination_rate"]
    assert strong["survives"] is True
    assert cells["hallucination_rate", "k", 8]["survives"] is False
    p = [row["p"] for row in table.records() if row["metric"] == "accuracy" and not row["reference"]]
    assert sorted(holm(p)) == sorted(
        row["p_holm"] for row in table.records() if row["metric"] == "accuracy" and row["p"]
    )
    assert cells["accuracy", "scale", 1.1]["reference"] is True
    assert cells["accuracy", "scale", 1.1]["change"] is None
    plot = plot_ablations(table)
    axes = plot.figure.axes
    assert "Bars: 95 %, Wilson's" in plot.caption
    assert "of rates Wilson's" in table.notes[0]
    assert [axis.get_xlabel() for axis in axes] == ["scale", "k"] or [axis.get_xlabel() for axis in axes] == [
        "k",
        "scale",
    ]
    (finding,) = ablation_findings(load_results(tmp_path).runs)
    assert any("1 runs differ from the reference in several" in note for note in finding.notes)
    assert any("scale=1.5 changes the hallucination rate" in note for note in finding.notes)


def test_one_configuration_is_no_ablation(tmp_path):
    with pytest.raises(NothingToShowError, match=r"benchmarks\.sweep"):
        ablation_findings(results(tmp_path, (record("scr"), BASE)))


# Frontier


def test_the_pareto_set_is_what_nothing_beats():
    points = np.array([[1, 1], [0, 2], [2, 0], [1, 2], [1, 1], [3, 3]], dtype=float)
    assert pareto_set(points).tolist() == [True, True, True, False, True, False]
    generator = random.Random(0)
    cloud = np.array([[generator.random() for _ in range(3)] for _ in range(50)])
    plain = [not any((other <= one).all() and (other < one).any() for other in cloud) for one in cloud]
    assert pareto_set(cloud).tolist() == plain


def test_a_point_of_the_frontier_is_called_by_its_configuration_whatever_task_comes_first(tmp_path):
    for contrast in (0.5, 2.0):
        write(tmp_path, record("vcd", config={"contrast": contrast}), BASE)
    captions = [dataclasses.replace(BASE[0], outcome=None, answer=None, margin=None)]
    write(tmp_path, record("vcd", task="chair", config={"contrast": 2.0}), captions)
    table, _ = frontier_table(load_results(tmp_path).runs)
    assert set(table.column("row")) == {"vcd (contrast=0.5)", "vcd (contrast=2)"}


def test_the_frontier_joins_tasks(tmp_path):
    worse = questions(images=60, shift=2.0)
    captions = [dataclasses.replace(BASE[0], outcome=None, answer=None, margin=None)]
    better = questions(images=60, gain=1.0)
    for method, samples, recall, total in (
        ("none", BASE, 0.5, None),
        ("good", better, 0.6, 1.1),
        ("bad", worse, 0.4, 2.0),
    ):
        timing = {"total_ms": 10 * (total or 1), "total_ratio": total}
        write(tmp_path, record(method, timing=timing), samples)
        caption = record(
            method, task="chair", rule="chair", metrics={"recall": recall}, intervals={"recall": [0.1, 0.9]}
        )
        write(tmp_path, caption, captions)
    write(tmp_path, record("captions only", task="chair", rule="chair"), captions)
    write(tmp_path, record("partial", status="running"), BASE[:60])
    write(tmp_path, record("elsewhere", data_sha256="e"), BASE)
    write(tmp_path, record("seeded", seed=7), BASE)
    write(tmp_path, record("good", data_sha256="e"), BASE[:60])
    write(tmp_path, record("other captions", timing={"total_ms": 9.0}), BASE)
    chair = record("other captions", task="chair", rule="chair", metrics={"recall": 1.0}, data_sha256="e")
    write(tmp_path, chair, captions)
    table, notes = frontier_table(load_results(tmp_path).runs)
    rows = {row["row"]: row for row in table.records()}
    assert any("seeded: not in the frontier, it has other questions in pope_random" in note for note in notes)
    assert rows.pop("other captions")["quality"] is None
    assert any(
        "other captions: its captions are of other images than those of the other rows" in note for note in notes
    )
    assert set(rows) == {"none", "good", "bad"}
    # By rate alone, as quality is not known of all, and times decide nothing.
    assert {name: row["pareto"] for name, row in rows.items()} == {"none": False, "good": True, "bad": False}
    assert rows["good"]["hallucination_rate"] == ratios(yes_no_table(better))["hallucination_rate"]
    assert (rows["good"]["quality_metric"], rows["good"]["quality"], rows["good"]["quality_low"]) == (
        "chair recall",
        0.6,
        0.1,
    )
    assert (rows["none"]["latency_ratio"], rows["good"]["latency_ratio"]) == (1.0, 1.1)
    assert any("captions only: not in the frontier, it lacks pope_random" in note for note in notes)
    assert any("partial: not in the frontier, it has 60 of the 360 questions of pope_random" in note for note in notes)
    assert any("elsewhere: not in the frontier, it has other questions in pope_random" in note for note in notes)
    assert [axis.get_xlabel() for axis in plot_frontier(table).figure.axes] == ["time (ms per answer)", "chair recall"]


def test_times_stand_with_their_spread_and_decide_no_mark(tmp_path):
    timing = {"total_ms": 8.5, "total_ms_spread": [8.0, 9.5], "total_ratio": 0.85, "total_ratio_spread": [0.7, 1.3]}
    worse = questions(images=60, shift=0.5)
    table, _ = frontier_table(results(tmp_path, (record("scr", timing=timing), worse)))
    rows = {row["row"]: row for row in table.records()}
    assert rows["scr"]["hallucination_rate"] > rows["none"]["hallucination_rate"]
    assert (rows["none"]["pareto"], rows["scr"]["pareto"]) == (True, False)
    assert [rows["scr"][f"latency_ratio{end}"] for end in ("", "_low", "_high")] == [0.85, 0.7, 1.3]
    assert plot_frontier(table).figure


def test_a_dimension_that_is_not_known_is_said(tmp_path):
    (finding,) = frontier_findings(results(tmp_path, (record("scr", timing={}), BASE)))
    assert any("quality is not known of all rows" in note for note in finding.notes)
    assert not any("latency" in note for note in finding.notes)
    with pytest.raises(NothingToShowError, match="no frontier"):
        frontier_table([])


# Norm and credit


def test_norms_and_credit_per_layer(tmp_path):
    torn = dataclasses.replace(BASE[1], trace={**BASE[1].trace, "layers": [0]})
    table, notes = credit_table(results(tmp_path, baseline=[BASE[0], torn, *BASE[2:]]))
    rows = list(table.records())
    assert [row["layer"] for row in rows] == [0, 1, 2, 3]
    kept = [one for one in BASE if one is not BASE[1]]
    assert rows[2]["r"] == pytest.approx(np.mean([one.trace["norm_credit_r"][2] for one in kept]))
    assert rows[2]["r_low"] < rows[2]["r"] < rows[2]["r_high"]
    assert rows[3]["growth"] == pytest.approx(1.3)
    assert (rows[0]["samples"], rows[0]["images"]) == (len(BASE) - 1, 60)
    assert notes == ["1 samples have another number of values than of layers and are left out."]
    assert len(plot_credit(table).figure.axes) == 2


def test_one_quantity_alone_is_shown_and_none_is_said(tmp_path):
    without = [dataclasses.replace(one, trace={**one.trace, "norm_growth": None}) for one in BASE]
    table, notes = credit_table(results(tmp_path, baseline=without))
    assert table.column("growth") == [None] * 4
    assert "norm_growth" in notes[0]
    assert not plot_credit(table).figure.axes[1].lines
    bare = [dataclasses.replace(one, trace=None) for one in BASE]
    with pytest.raises(NothingToShowError, match="norms stand for credit"):
        credit_findings(results(tmp_path / "bare", baseline=bare))


# Summary


def test_the_summary_is_what_was_recorded(tmp_path):
    run = record(
        metrics={"accuracy": 0.5, "length": 7.0, "auc": None},
        intervals={"accuracy": [0.4, 0.6]},
        units={"length": "words"},
    )
    runs = results(tmp_path, (record("scr", status="running"), BASE[:60]))
    write(tmp_path, dataclasses.replace(run, method="vcd", reasons={"auc": "no margins"}), BASE)
    write(tmp_path, record("odd", seed=9), BASE)
    runs = load_results(tmp_path).runs
    (table,) = summary_tables(runs)
    rows = {row["row"]: row for row in table.records()}
    assert list(rows) == ["none", "odd", "scr", "vcd"]
    assert (rows["vcd"]["accuracy"], rows["vcd"]["accuracy_low"], rows["vcd"]["length"]) == (0.5, 0.4, 7.0)
    assert rows["scr"]["accuracy"] == ratios(yes_no_table(BASE[:60]))["accuracy"]
    assert rows["scr"]["auc_low"] < rows["scr"]["auc"] < rows["scr"]["auc_high"]
    assert "accuracy" in table.percent
    assert not {"length", "auc", "auc_low"} & table.percent
    (finding,) = summary_findings(runs)
    assert "pope_random, vcd: no auc, no margins." in finding.notes
    assert any("seed 9 against 0" in note for note in finding.notes)
    scr = next(one for one in runs if one.row == "scr")
    assert run_metrics(scr) == yes_no_metrics(scr)
