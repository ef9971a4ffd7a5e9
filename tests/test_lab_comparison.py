"""The lab's comparison: declared, run as declared, and the tables of FINDINGS.md made from its results."""

import json
from pathlib import Path

import pytest

import scr
from benchmarks.lab.comparison import DECLARED, RESULTS, as_markdown, compare_methods, main
from benchmarks.lab.image_keep import FIGURE, read_grid
from benchmarks.lab.only_below import main as saving_main
from benchmarks.lab.only_below import measure_saving
from benchmarks.running.methods import check_methods
from benchmarks.running.prompts import PROMPTS

FINDINGS = (Path(__file__).parent.parent / "benchmarks" / "lab" / "FINDINGS.md").read_text()
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", sorted(one.stem for one in DECLARED.glob("*.json")))
def test_what_is_declared_exists(name):
    declared = json.loads((DECLARED / f"{name}.json").read_text())
    rows = declared["rows"]
    named = {part for row in rows for part in row["method"].split("+")}
    assert {"none"} <= named <= {"none", *scr.list_methods()}, "something is always compared with no method"
    assert {row["prompt"] for row in rows if "prompt" in row} <= set(PROMPTS)
    assert len({row["row"] for row in rows}) == len(rows)
    for row in rows:
        check_methods([row["method"]], {}, row.get("generation", {}))
        if "args" in row:
            assert (
                scr.get_method(row["method"]).config_class.from_dict(row["args"]).to_dict().items()
                >= row["args"].items()
            )
    for decoding in ("sampled", "generation"):
        own = [row["method"] for row in rows if decoding in row]
        assert not own or own[0] == "none", "beside every row that decodes so"


def test_a_comparison_runs_what_is_declared(tmp_path, capsys):
    declared = {
        "split": "val",
        "images": 1,
        "tasks": ["pope_random", "chair"],
        "batch_size": 6,
        "calibration": {"split": "val", "images": 1, "tasks": ["pope_popular"]},
        "sampling": {"do_sample": True, "temperature": 1.0, "top_k": 0},
        "rows": [
            {"row": "none", "method": "none"},
            {"row": "scr+purified", "method": "scr+purified"},
            {"row": "shifted", "method": "yes_shift", "match": "purified"},
            {"row": "defensive", "method": "none", "prompt": "defensive"},
            {"row": "scr, own", "method": "scr", "args": {"scale": 1.2}},
            {"row": "sampled", "method": "none", "sampled": True},
            {"row": "sampled vcd", "method": "vcd", "sampled": True},
            {"row": "beams", "method": "none", "generation": {"num_beams": 2}, "tasks": ["chair"]},
            {"row": "opera", "method": "opera", "generation": {"num_beams": 2}, "tasks": ["chair"]},
        ],
    }
    found = compare_methods("lab/llava", declared, tmp_path)
    assert list(found) == [row["row"] for row in declared["rows"]]
    assert found["shifted"]["chair"]["config"]["shift"] == found["shifted"]["calibration"]["shift"]
    assert found["scr+purified"]["chair"]["config"]["scr"]["scale"] == 1.4, "what was chosen beside the checkpoint"
    own = found["scr, own"]["chair"]["config"]
    assert (own["scale"], own["num_sources"]) == (1.2, 16), "a row's own, and else what was chosen"
    assert "differences" not in found["none"]["chair"]
    assert "differences" not in found["sampled"]["chair"]
    assert "differences" not in found["beams"]["chair"]
    assert "differences" in found["opera"]["chair"]
    assert "pope_random" not in found["opera"]
    assert found["sampled vcd"]["pope_random"]["config"]["plausibility"] == 0.1
    assert found["scr+purified"]["pope_random"]["timing"]["prefill_ratio"] is None, "of few batches there is no time"
    assert (tmp_path / "pope_random" / "lab--llava").exists()
    results = {
        "seeds": ["7", "8"],
        "tasks": declared["tasks"],
        "declared": declared,
        "models": {"a": found, "b": found},
    }
    for task in declared["tasks"]:
        lines = as_markdown(results, task).splitlines()
        assert len(lines) == 2 + len(declared["rows"]) - (0 if task == "chair" else 2)
        assert len({line.count(" | ") for line in lines[2:]} | {lines[0].count(" | ")}) == 1


def test_points_are_shown_as_they_are_and_an_own_baseline_decides():
    entry = {"metrics": {"count": 186.0, "count_acc": 0.94}, "units": {"count": "points of 200"}, "intervals": {}}
    found = {
        "none": {"lab_mme": entry},
        "scr": {"lab_mme": {**entry, "differences": {"count": [-9, -21, 0.04]}, "changes": [3, 2, 1]}},
    }
    rows = [{"row": name, "method": name} for name in found]
    table = as_markdown({"seeds": ["7"], "declared": {"rows": rows}, "models": {"a": found}}, "lab_mme")
    assert table.splitlines()[0] == "|  | count | Δ count | changed: worse, better |"
    rows = table.splitlines()[2:]
    assert rows == ["| `none` | 186.0 |  |  |", "| `scr` | 186.0 | -9.0 (-21.0 … +0.0) | 3: 2, 1 |"]


def test_a_declaration_of_all_settings_takes_none_from_beside_the_checkpoint(tmp_path):
    with pytest.raises(scr.ConfigError, match=r"settings beside the checkpoint: got .*scr\.json"):
        compare_methods("lab/llava", {"settings": {}, "rows": []}, tmp_path)


@pytest.mark.parametrize("name", ["comparison", "adapters"])
def test_the_tables_are_those_of_the_results(name, capsys):
    assert main(["--declared", name, "--markdown"]) == 0
    printed = capsys.readouterr().out
    results = json.loads((RESULTS / f"{name}.json").read_text())
    declared = json.loads((DECLARED / f"{name}.json").read_text())
    assert results["declared"] == declared, "declared first, and not changed afterwards"
    for task in results["tasks"]:
        table = as_markdown(results, task)
        assert table in printed
        # Two splits of POPE say what the third says: they stand in the file alone.
        assert (table in FINDINGS) == (name == "comparison" or task not in ("pope_random", "pope_popular"))


def test_adapters_are_rows_with_tasks_of_their_own(tmp_path):
    """A row may put an adapter on the model, and be asked about fewer tasks than the others."""
    declared = {
        "split": "test",
        "images": 2,
        "images_of": {"sycophancy": 3},
        "tasks": ["sycophancy", "pope_random"],
        "batch_size": 12,
        "rows": [
            {"row": "none", "method": "none", "settings": "greedy"},
            {"row": "cot", "method": "none", "prompt": "cot", "settings": "prompt"},
            {"row": "refusal", "method": "none", "adapter": "lab/refusal", "settings": "as trained"},
            {"row": "refusal, scr", "method": "scr", "adapter": "lab/refusal", "tasks": ["sycophancy"], "settings": ""},
        ],
    }
    found = compare_methods("lab/llava", declared, tmp_path, lambda line: None)
    assert {row: list(entry) for row, entry in found.items()} == {
        **{key: ["sycophancy", "pope_random"] for key in ("none", "cot", "refusal")},
        "refusal, scr": ["sycophancy"],
    }
    assert [found["none"][task]["counts"]["n"] for task in declared["tasks"]] == [6, 12]
    assert "adapter" not in found["cot"]["sycophancy"]
    assert found["refusal"]["sycophancy"]["adapter"].startswith("lab/refusal@sha256:")
    assert found["refusal, scr"]["sycophancy"]["method"] == "scr"
    assert "differences" not in found["none"]["sycophancy"]
    assert {"hallucination_rate", "utility"} <= set(found["refusal"]["sycophancy"]["differences"])
    results = {"seeds": ["7"], "declared": declared, "models": {"7": found}}
    assert len(as_markdown(results, "sycophancy").splitlines()) == 2 + 4
    assert len(as_markdown(results, "pope_random").splitlines()) == 2 + 3


@pytest.mark.skipif(not FIGURE.exists(), reason="the adapters have not been compared yet")
def test_the_grid_of_image_keep_is_that_of_the_results():
    results = json.loads((RESULTS / "adapters.json").read_text())
    grid = read_grid(results)
    rows = next(iter(results["models"].values()))
    assert [point[0] for point in grid["CHAIR-i"]] == [0.1, 0.3, 0.5, 0.7]
    assert grid["CHAIR-i"][1][1] == 100 * rows["seed"]["chair"]["differences"]["chair_i"][0]
    assert all(low <= value <= high for points in grid.values() for _, value, low, high in points)


def test_only_below_saves_forwards(capsys):
    assert saving_main(["--images", "2"]) == 0
    assert capsys.readouterr().out.count("\n") == 8
    found = measure_saving("lab/llava", 2, 1)
    assert [one["forwards"] for one in found[:3]] == [None, None, 1.0]
    partly = [one["forwards"] for one in found[3:]]
    assert 0 < partly[0] <= partly[1] <= partly[2] < 1
    assert [one["changed"] for one in found[1:3]] == [0, 0], "two engines, one result"
    assert found[0]["time"] == 1
