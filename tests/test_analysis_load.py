"""Folders of results, good and bad: what is read, what is paired, and what is said."""

import json

import pytest
from synthetic_results import answer, questions, record, write

from analysis.reading.load import (
    NothingToShowError,
    ResultsError,
    flat_config,
    load_results,
    model_labels,
    row_labels,
    short_value,
)
from analysis.reading.pairs import find_pairs, yes_no_pairs
from analysis.reading.trace import MEASURES, largest_entropy, number, numbers, patches, series

FEW = questions(images=3)


def test_a_folder_is_read(tmp_path):
    write(tmp_path, record(), FEW)
    write(tmp_path, record("scr", adapter="seed"), FEW)
    found = load_results(tmp_path)
    assert found.problems == ()
    assert [run.row for run in found.runs] == ["none", "scr, seed"]
    assert [run.is_baseline for run in found.runs] == [True, False]
    assert found.runs[0].samples[0] == FEW[0]
    assert found.runs[0].setting == found.runs[1].setting
    assert found.runs[0].is_yes_no


def test_no_folder_and_an_empty_one(tmp_path):
    with pytest.raises(ResultsError, match=r"no folder of results: got .*nothing; expected"):
        load_results(tmp_path / "nothing")
    with pytest.raises(ResultsError, match=r"holds no run: got .*; expected <task>/<model>.* Run `python -m"):
        load_results(tmp_path)


def test_mixed_schemas_are_named_and_ours_are_shown(tmp_path):
    write(tmp_path, record(), FEW)
    path = write(tmp_path, record("scr"), FEW)
    _change(path, schema=99)
    found = load_results(tmp_path)
    assert [run.row for run in found.runs] == ["none"]
    (problem,) = found.problems
    assert "got 1 of schema 99" in problem
    assert "beside 1 of schema 1 or 2 or 3; expected 1 or 2 or 3" in problem
    assert str(path) in problem
    _change(found.runs[0].folder, schema=98)
    with pytest.raises(ResultsError, match=r"no run can be read: got 2 .*schema 98.*schema 99"):
        load_results(tmp_path)


def test_broken_runs_do_not_hide_the_others(tmp_path):
    write(tmp_path, record(), FEW)
    write(tmp_path, record("empty"), [])
    write(tmp_path, record("going", status="running"), FEW[:6])
    (write(tmp_path, record("lost"), FEW) / "run.json").unlink()
    (write(tmp_path, record("torn"), FEW) / "samples.jsonl").write_text("{}\n{}\n")
    (write(tmp_path, record("garbled"), FEW) / "run.json").write_bytes(b"\xff{")
    found = load_results(tmp_path)
    assert [run.row for run in found.runs] == ["going", "none"]
    problems = {
        word: [one for one in found.problems if word in one] for word in ("empty", "going", "lost", "torn", "garbled")
    }
    assert all(len(told) == 1 for told in problems.values()), problems
    assert "no samples" in problems["empty"][0]
    assert "6 samples so far are shown" in problems["going"][0]
    assert "no record" in problems["lost"][0]
    assert "cannot be read" in problems["torn"][0]
    assert "cannot be read" in problems["garbled"][0]


def test_models_and_rows_get_short_names_that_are_unique(tmp_path):
    for model, revision in (("lab/llava", "a"), ("/x/seeds/one", "a"), ("/y/one", "sha256:123456789"), ("/x/z", "a")):
        write(tmp_path, record(model=model, revision=revision), FEW)
    labels = model_labels(load_results(tmp_path).runs)
    assert {key[0]: label for key, label in labels.items()} == {
        "lab/llava": "lab/llava", "/x/seeds/one": "one (a)", "/y/one": "one (12345678)", "/x/z": "z",
    }  # fmt: skip


def test_rows_of_a_sweep_say_what_differs(tmp_path):
    for config in ({"scale": 1.1, "k": 32}, {"scale": 1.25000001, "k": 32}, {"scale": 1.1, "k": 8}):
        write(tmp_path, record("scr", config=config), FEW)
    write(tmp_path, record("vcd", config={"contrast": 1.0}), FEW)
    write(tmp_path, record("vcd", config={"contrast": 1.0}, generation={"do_sample": True}), FEW)
    write(tmp_path, record("vcd", config={"contrast": 1.0}, seed=1), FEW)
    write(tmp_path, record(prompt="cot"), FEW)
    labels = sorted(row_labels(load_results(tmp_path).runs).values())
    assert labels == [
        "none, prompt cot", "scr", "scr (k=8)", "scr (scale=1.25)", "vcd, sampled", "vcd, seed 0", "vcd, seed 1",
    ]  # fmt: skip


def test_configurations_are_flattened():
    assert flat_config({"a": {"b": 1, "c": {"d": None}}, "e": [1]}) == {"a.b": 1, "a.c.d": None, "e": [1]}
    assert [short_value(one) for one in (0.12089824676513672, 3, "x", [1], None)] == ["0.1209", "3", "x", "[1]", "null"]


def test_pairs_share_questions(tmp_path):
    write(tmp_path, record(), FEW)
    write(tmp_path, record(prompt="cot"), FEW)
    write(tmp_path, record("scr"), FEW)
    write(tmp_path, record("scr", prompt="cot"), FEW)
    write(tmp_path, record(adapter="seed"), FEW)
    found = find_pairs(load_results(tmp_path).runs)
    assert found.problems == ()
    assert [(pair.row, pair.baseline_row) for pair in found.pairs] == [
        ("none, prompt cot", "none"), ("none, seed", "none"), ("scr", "none"), ("scr, prompt cot", "none, prompt cot"),
    ]  # fmt: skip
    assert all(pair.before == tuple(FEW) == pair.after for pair in found.pairs)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"data_sha256": "e"}, "data_sha256 e against d"),
        ({"seed": 3}, "seed 3 against 0"),
        ({"revision": "sha256:1"}, "no baseline"),
        ({"generation": {"do_sample": True}}, "generation"),
        ({"rule": "other"}, "rule other against pope"),
    ],
)
def test_runs_on_other_questions_are_never_paired_silently(tmp_path, change, word):
    write(tmp_path, record(), FEW)
    write(tmp_path, record("scr", **change), FEW)
    runs = load_results(tmp_path).runs
    found = find_pairs(runs)
    assert found.pairs == ()
    (problem,) = found.problems
    assert word in problem
    assert "still shown alone" in problem
    with pytest.raises(NothingToShowError, match=word):
        yes_no_pairs(runs)


def test_other_images_or_answers_below_the_same_ids_are_seen(tmp_path):
    write(tmp_path, record(), FEW)
    other = [answer(FEW[0].id, "other.jpg", "yes", 1.0), *FEW[1:]]
    write(tmp_path, record("scr"), other)
    write(tmp_path, record("vcd"), [answer("new", "0.jpg", "yes", 1.0)])
    found = find_pairs(load_results(tmp_path).runs)
    assert found.pairs == ()
    assert "other.jpg" in found.problems[0]
    assert "ask different questions" in found.problems[0]
    assert "share no sample" in found.problems[1]


@pytest.mark.parametrize(
    ("change", "how"),
    [
        ({"batch_size": 7}, "batches of 7 against 6"),
        ({"attention": "eager"}, "eager against sdpa"),
        ({"device": "cuda:1: NVIDIA H200"}, "NVIDIA H200 against NVIDIA H100"),
        ({"device": "cuda:1: NVIDIA H100", "attention": None}, None),
    ],
)
def test_runs_that_were_not_computed_alike_are_compared_and_said_to_be(tmp_path, change, how):
    same = {"device": "cuda:0: NVIDIA H100", "attention": "sdpa"}
    write(tmp_path, record(**same), FEW)
    write(tmp_path, record("scr", **(same | change)), FEW)
    pairs, problems = find_pairs(load_results(tmp_path).runs)
    assert len(pairs) == 1
    assert [f"not computed alike: got {how} in" in one for one in problems] == [True] * (how is not None)


def test_what_a_longer_run_left_beyond_the_limit_is_not_the_runs(tmp_path):
    write(tmp_path, record(limit=2), FEW)
    write(tmp_path, record("scr", limit=2), FEW[:12])
    found = load_results(tmp_path)
    assert [run.samples for run in found.runs] == [tuple(FEW[:12])] * 2
    (pair,), problems = find_pairs(found.runs)
    assert (pair.before, problems) == (tuple(FEW[:12]), ())


def test_a_part_in_common_is_compared_and_said(tmp_path):
    write(tmp_path, record(), FEW)
    write(tmp_path, record("scr"), FEW[6:])
    (pair,), (problem,) = find_pairs(load_results(tmp_path).runs)
    assert pair.before == tuple(FEW[6:])
    assert "got 6 only in the baseline and 0 only in the method" in problem
    assert "12 that both have" in problem


def test_traces_may_hold_anything():
    good = answer(
        "a", "i", "yes", 1.0, {"entropy": 3, "object": {"area": 0.5}, "layers": [0, 1], "grids": [[2, 3], [4, 5]]}
    )
    bad = answer(
        "b", "i", "yes", 1.0, {"entropy": "3", "object": None, "layers": None, "grids": [[2]], "attention": [1]}
    )
    assert number(good, "entropy") == 3.0
    assert number(good, "object", "area") == 0.5
    assert series(good, "layers") == [0.0, 1.0]
    assert patches(good) == 26
    assert patches(answer("c", "i", "yes", 1.0, {"attention": [0.1] * 9})) == 9
    bare = answer("d", "i", "yes", 1.0)
    for sample in (bad, bare):
        assert str(numbers([sample], "entropy")) == str(numbers([sample], "object", "area")) == "[nan]"
        assert series(sample, "layers") == []
        assert patches(sample) is None
    assert largest_entropy([bad, bare]) is None
    assert largest_entropy([bad, good]) == pytest.approx(3.258, abs=1e-3)
    assert "entropy" in MEASURES


def _change(path, **fields):
    file = path / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
