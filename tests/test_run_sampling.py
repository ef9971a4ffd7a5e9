"""Sampled runs have greedy decoding beside them: the same records as those of a greedy run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from miniature import write_coco

import scr
from benchmarks.asking.answering import Answerer, Question
from benchmarks.asking.models import load_model
from benchmarks.asking.sampling import sampling
from benchmarks.printing.table import print_report
from benchmarks.running.plan import GREEDY_ROW, RunConfig, build_plan
from benchmarks.running.runner import run

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


@pytest.fixture(scope="module")
def answerer(checkpoint: Path) -> Answerer:
    return Answerer(load_model(str(checkpoint)))


@pytest.mark.parametrize("method", ["none", "scr", "purified", "vcd", "dola", "plausibility_only", "scr+purified"])
def test_a_sampled_answer_is_a_function_of_its_sample(method: str, answerer: Answerer, tmp_path: Path) -> None:
    """Not of the batch: else another batch size, or a batch of which a picture was left out, answers otherwise."""
    data = write_coco(tmp_path / "coco") / "images"
    questions = [Question(id=f"{n}", image=data / f"{n:06d}.png", prompt="dog ?") for n in range(1, 6)]
    sampled = {"do_sample": True, "max_new_tokens": 6, "temperature": 1.5}

    def answers(batch_size: int, seed: int = 0) -> list[str]:
        batches = [questions[start : start + batch_size] for start in range(0, 5, batch_size)]
        found = [answerer.answer(batch, sampled, seed=seed, margins=False) for batch in batches]
        return [answer.text for batch in found for answer in batch]

    with scr.patch(answerer._model, method):
        found = answers(5)
        assert answers(1) == answers(2) == found
        assert len(set(found)) == 5
        assert all(one != other for one, other in zip(answers(5, seed=1), found, strict=True))


def test_beams_draw_with_their_prompts_generator() -> None:
    weights = torch.rand(6, 50, generator=torch.Generator().manual_seed(0))
    with sampling(0, ["a", "b"], torch.device("cpu")):
        together = torch.multinomial(weights, num_samples=2)
    for number, name in enumerate("ab"):
        with sampling(0, [name], torch.device("cpu")):
            alone = torch.multinomial(weights[3 * number : 3 * number + 3], num_samples=2)
        assert torch.equal(alone, together[3 * number : 3 * number + 3])


def test_sampled_runs_of_another_drawing_are_other_runs(checkpoint: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def folders() -> list[Path]:
        config = RunConfig(
            model=str(checkpoint),
            data_dir=data,
            methods=("none",),
            tasks=("chair",),
            generation={"do_sample": True},
            output_dir=tmp_path,
        )
        return [cell.folder.path for cell in build_plan(config).cells]

    data = write_coco(tmp_path / "coco")
    sampled, greedy = folders()
    monkeypatch.setattr("benchmarks.asking.sampling.VERSION", 3)
    assert folders()[0] != sampled
    assert folders()[1] == greedy
