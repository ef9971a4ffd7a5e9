"""Sampled runs have greedy decoding beside them: the same records as those of a greedy run."""

from __future__ import annotations

from pathlib import Path

import pytest
from miniature import write_coco

from benchmarks.plan import GREEDY_ROW, RunConfig, build_plan
from benchmarks.runner import run
from benchmarks.table import print_report

pytestmark = pytest.mark.usefixtures("one_thread")
SAMPLED = {"max_new_tokens": 2, "do_sample": True, "temperature": 0.8, "top_k": 0}


def test_greedy_stands_beside_every_sampled_run(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_coco(tmp_path / "coco")

    def config(**generation: object) -> RunConfig:
        return RunConfig(
            model=str(checkpoint),
            data_dir=data,
            methods=("plausibility_only",),
            tasks=("pope_random",),
            limit=2,
            batch_size=12,
            generation=generation,
            output_dir=tmp_path / "results",
        )

    plan = build_plan(config(**SAMPLED))
    assert [cell.row for cell in plan.cells] == ["none", GREEDY_ROW, "plausibility_only"]
    assert [cell.method for cell in plan.cells] == ["none", "none", "plausibility_only"]
    assert plan.cells[1].generation == {"max_new_tokens": 2, "do_sample": False}
    sampled, greedy, method = run(config(**SAMPLED))
    assert greedy.cell.folder.path != sampled.cell.folder.path
    assert method.run.generation == sampled.run.generation != greedy.run.generation
    alone = run(config(max_new_tokens=2))
    assert len(alone) == 2, "a greedy run needs no second baseline"
    assert alone[0].from_store
    assert alone[0].cell.folder.path == greedy.cell.folder.path
    print_report(plan, [sampled, greedy, method])
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(GREEDY_ROW) for line in lines) == 2, "its metrics and its counts"
