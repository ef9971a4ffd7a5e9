"""SCR's settings for the lab: the declared grid, the search, and what lies beside the checkpoint."""

import json
from pathlib import Path

import pytest

import scr
from benchmarks.lab import CHECKPOINTS, checkpoint_folder
from benchmarks.lab.tune import GRIDS, configurations, main, tune
from benchmarks.running.runner import run

TUNED = [name for name in CHECKPOINTS if (checkpoint_folder(name) / "scr.json").exists()]


@pytest.mark.parametrize("name", TUNED)
def test_the_settings_beside_the_checkpoint_are_the_grids_winner(name: str):
    grid = json.loads((GRIDS / "small.json").read_text())
    found = json.loads((checkpoint_folder(name) / "scr.json").read_text())
    tried = configurations(grid)
    assert found["configurations"] == len(tried) == len(found["results"])
    assert [{name: result[name] for name in grid["fields"]} for result in found["results"]] == tried
    best = max(found["results"], key=lambda result: result["auc"])
    assert found["settings"] == {name: best[name] for name in grid["fields"]}
    assert found["better_than_without"] == sum(result["auc"] > found["auc_without"] for result in found["results"])
    scr.SCRConfig.from_dict(found["settings"])


@pytest.mark.parametrize("path", sorted(GRIDS.glob("*.json")), ids=lambda path: path.stem)
def test_what_is_declared_can_be_tried(path: Path):
    for fields in configurations(json.loads(path.read_text())):
        scr.SCRConfig.from_dict(fields)


def test_a_model_of_the_cache_needs_a_file_for_what_was_found(capsys: pytest.CaptureFixture[str]):
    assert main(["--model", "lab/smol", "--grid", "smol"]) == 2
    assert "nowhere to write: got no --output for lab/smol" in capsys.readouterr().err


def test_a_search_runs_all_of_its_grid_and_takes_the_highest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    grid = {
        "split": "val",
        "images": 2,
        "task": "pope_random",
        "criterion": "auc",
        "fields": {"scale": [1.0, 1.4], "num_sources": [4]},
    }
    ran = []
    monkeypatch.setattr("benchmarks.running.runner.run", lambda config: ran.append(config) or run(config))
    found = tune("lab/llava", tmp_path, grid)
    assert ran[0].method_args == {"scale": 1.0, "num_sources": 4}
    grid = {**grid, "fields": {"layers": [[0, 2]]}}
    assert tune("lab/llava", tmp_path, grid)["settings"] == {"layers": [0, 2]}
    assert ran[-1].method_args == {"layers": [0, 2], "scale": 1.1, "num_sources": 32}, "not what lies beside"
    assert "2 configurations" in capsys.readouterr().out
    assert [result["scale"] for result in found["results"]] == [1.0, 1.4]
    assert found["results"][0]["auc"] == found["auc_without"], "at a scale of 1 nothing is edited"
    assert found["auc"] == max(result["auc"] for result in found["results"])
