"""SCR's settings for the lab: the declared grid, the search, and what lies beside the checkpoint."""

import json
from pathlib import Path

import pytest

import scr
from benchmarks.lab import CHECKPOINTS, checkpoint_folder
from benchmarks.lab.tune import GRIDS, configurations, tune

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


def test_a_search_runs_all_of_its_grid_and_takes_the_highest(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    grid = {
        "split": "val",
        "images": 2,
        "task": "pope_random",
        "criterion": "auc",
        "fields": {"scale": [1.0, 1.4], "num_sources": [4]},
    }
    found = tune("lab/llava", tmp_path, grid)
    assert "2 configurations" in capsys.readouterr().out
    assert [result["scale"] for result in found["results"]] == [1.0, 1.4]
    assert found["results"][0]["auc"] == found["auc_without"], "at a scale of 1 nothing is edited"
    assert found["auc"] == max(result["auc"] for result in found["results"])
