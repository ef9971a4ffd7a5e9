"""The lab's comparison: declared, run as declared, and README's tables made from its results."""

import json
from pathlib import Path

import pytest

import scr
from benchmarks.lab.comparison import DECLARED, RESULTS, as_markdown, compare_methods, main
from benchmarks.lab.only_below import main as saving_main
from benchmarks.lab.only_below import measure_saving
from benchmarks.prompts import PROMPTS

README = (Path(__file__).parent.parent / "README.md").read_text()
pytestmark = pytest.mark.usefixtures("one_thread")


def test_what_is_declared_exists_and_covers_the_methods():
    declared = json.loads(DECLARED.read_text())
    rows = declared["rows"]
    named = {part for row in rows for part in row["method"].split("+")}
    assert named == {"none", *scr.list_methods()}
    assert {row["prompt"] for row in rows if "prompt" in row} <= set(PROMPTS)
    assert len({row["row"] for row in rows}) == len(rows)
    assert next(row["method"] for row in rows if row.get("sampled")) == "none", "beside every sampled row"


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
            {"row": "sampled", "method": "none", "sampled": True},
            {"row": "sampled vcd", "method": "vcd", "sampled": True},
        ],
    }
    found = compare_methods("lab/llava", declared, tmp_path)
    assert list(found) == [row["row"] for row in declared["rows"]]
    assert found["shifted"]["chair"]["config"]["shift"] == found["shifted"]["calibration"]["shift"]
    assert found["scr+purified"]["chair"]["config"]["scr"]["scale"] == 1.4, "what was chosen beside the checkpoint"
    assert "differences" not in found["none"]["chair"]
    assert "differences" not in found["sampled"]["chair"]
    assert found["sampled vcd"]["pope_random"]["config"]["plausibility"] == 0.1
    assert found["scr+purified"]["pope_random"]["timing"]["prefill_ratio"] > 0
    assert (tmp_path / "pope_random" / "lab--llava").exists()
    results = {
        "seeds": ["7", "8"],
        "tasks": declared["tasks"],
        "declared": declared,
        "models": {"a": found, "b": found},
    }
    for task in declared["tasks"]:
        lines = as_markdown(results, task).splitlines()
        assert len(lines) == 2 + len(declared["rows"])
        assert len({line.count(" | ") for line in lines[2:]} | {lines[0].count(" | ")}) == 1


@pytest.mark.skipif(not RESULTS.exists(), reason="the comparison has not been run yet")
def test_readmes_tables_are_those_of_the_results(capsys):
    assert main(["--markdown"]) == 0
    results = json.loads(RESULTS.read_text())
    assert results["declared"] == json.loads(DECLARED.read_text()), "declared first, and not changed afterwards"
    for task in results["tasks"]:
        assert as_markdown(results, task) in README
        assert as_markdown(results, task) in capsys.readouterr().out or task != results["tasks"][0]


def test_only_below_saves_forwards(capsys):
    assert saving_main(["--images", "2"]) == 0
    assert capsys.readouterr().out.count("\n") == 8
    found = measure_saving("lab/llava", 2, 1)
    assert [one["forwards"] for one in found[:3]] == [None, None, 1.0]
    partly = [one["forwards"] for one in found[3:]]
    assert 0 < partly[0] <= partly[1] <= partly[2] < 1
    assert [one["changed"] for one in found[1:3]] == [0, 0], "two engines, one result"
    assert found[0]["time"] == 1
