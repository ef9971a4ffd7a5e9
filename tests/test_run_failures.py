"""Pictures that cannot be asked about, questions that were recorded otherwise, logits that are no numbers."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from miniature import without_times, write_coco
from PIL import Image

from benchmarks import run as command
from benchmarks.asking.answering import Answerer, Question, RefusedError
from benchmarks.asking.finite import FiniteLogits, NotFiniteError
from benchmarks.asking.models import LoadedModel, load_model
from benchmarks.running.outcomes import Outcome, RunFailedError
from benchmarks.running.plan import RECORD, RunConfig, build_plan
from benchmarks.running.runner import run

pytestmark = pytest.mark.usefixtures("one_thread")
Configure = Callable[..., RunConfig]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "coco")


@pytest.fixture
def configure(small_run: Configure) -> Configure:
    return functools.partial(small_run, batch_size=12)


def truncate(picture: Path) -> bytes:
    whole = picture.read_bytes()
    picture.write_bytes(whole[: len(whole) // 2])
    return whole


def text(picture: Path) -> None:
    picture.write_text("no picture")


def wanted_pictures(config: RunConfig) -> list[Path]:
    samples = build_plan(config).cells[0].work.wanted_samples
    return list(dict.fromkeys(sample.image for sample in samples if sample.image is not None))


def test_a_bad_picture_is_named_and_ends_the_run(configure: Configure, data: Path) -> None:
    (good,) = run(configure())
    picture = wanted_pictures(configure())[3]
    truncate(picture)
    config = configure(output_dir=data / "again")
    what = (
        rf"sample '{int(picture.stem)}-1' \(and 5 more\): picture '{picture}' cannot be used: got OSError: image file"
    )
    with pytest.raises(RunFailedError, match=what):
        run(config)
    assert len(good.records) == 24


@pytest.mark.parametrize("spoil", [truncate, text, Path.unlink])
@pytest.mark.parametrize("task", ["pope_random", "chair"])
def test_a_bad_picture_is_a_counted_failure(
    spoil: Callable[[Path], Any], task: str, configure: Configure, tmp_path: Path
) -> None:
    config = configure(tasks=(task,), methods=("scr",), on_error=RECORD)
    whole = run(configure(tasks=(task,), methods=("scr",), output_dir=tmp_path / "whole"))
    picture = wanted_pictures(config)[1]
    good = picture.read_bytes()
    spoil(picture)
    found = run(config)
    for outcome, expected in zip(found, whole, strict=True):
        others = [record for record in expected.records if record.image != picture.name]
        failed = [record for record in outcome.records if record.error is not None]
        assert {record.image for record in failed} == {picture.name}
        assert outcome.run.status == "finished"
        assert outcome.run.counts["errors"] == len(failed) == len(expected.records) // 4
        for record in failed:
            assert (record.output, record.answer, record.outcome, record.margin) == ("", None, None, None)
            assert str(picture) in record.error
        assert answers(outcome) == {name: one for name, one in answers(expected).items() if one[0] != picture.name}
        if task == "pope_random":
            assert outcome.run.counts["n"] == 24
            assert outcome.run.counts["unparsed"] == len(failed) + sum(one.answer is None for one in others)
        else:
            assert outcome.run.counts["captions"] == 3
    # The picture is mended: what failed is asked again, and nothing else.
    picture.write_bytes(good)
    lines: list[str] = []
    again = run(configure(tasks=(task,), methods=("scr",)), lines.append)
    assert all("asks" in line and "again that failed" in line for line in lines if "goes on" in line)
    for outcome, expected in zip(again, whole, strict=True):
        assert len(outcome.timed) == len(expected.records) // 4
        assert answers(outcome) == answers(expected)
        assert outcome.run.counts["errors"] == 0
        assert [record.id for record in outcome.cell.folder.samples()] == [record.id for record in expected.records]
    assert all(outcome.from_store for outcome in run(config))


def answers(outcome: Outcome) -> dict[str, tuple[str, str]]:
    return {record.id: (record.image, record.output) for record in outcome.records if record.error is None}


def test_a_whole_batch_may_fail(configure: Configure) -> None:
    for picture in wanted_pictures(configure())[:2]:
        text(picture)
    (outcome,) = run(configure(on_error=RECORD, batch_size=6))
    assert outcome.run.counts["errors"] == 12
    assert outcome.run.counts["n"] == 24


def test_a_bad_picture_beyond_the_limit_stops_nothing(configure: Configure) -> None:
    first, second, *_ = wanted_pictures(configure())
    text(second)
    (outcome,) = run(configure(limit=1))  # the batch of 12 reaches into the second picture
    assert [record.image for record in outcome.records] == [first.name] * 6


def test_what_a_processor_refuses_is_a_failure_too(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    Image.new("RGB", (1, 3000)).save(data / "images" / "000007.png")
    arguments = [
        *("--model", "lab/qwen2_vl", "--data-dir", str(data), "--tasks", "pope_random", "--method", "none"),
        *("--limit", "2", "--gen-kwarg", "max_new_tokens=1", "--output-dir", str(tmp_path / "results")),
    ]
    assert command.main(arguments) == 1
    said = capsys.readouterr().err
    assert "000007.png' cannot be used: got ValueError: absolute aspect ratio must be smaller than 200" in said
    assert "--on-error record" in said
    assert command.main([*arguments, "--on-error", "record"]) == 0
    said = capsys.readouterr().out
    assert "none: 6 of 12 samples failed, and the same command asks them again; 7-1: picture" in " ".join(said.split())


def test_questions_without_a_picture_are_answered_beside_a_bad_one(checkpoint: Path, data: Path) -> None:
    answerer = Answerer(load_model(str(checkpoint)))
    bad = data / "images" / "000001.png"
    text(bad)
    good = data / "images" / "000002.png"
    questions = [Question(id=name, image=path, prompt="dog ?") for name, path in (("a", bad), ("b", good), ("c", None))]
    with pytest.raises(RefusedError) as caught:
        answerer.answer(questions, {"max_new_tokens": 2}, seed=0, margins=False)
    assert list(caught.value.problems) == ["a"]


@pytest.mark.parametrize("name", ["prompt", "target", "image"])
def test_samples_that_were_asked_otherwise_are_asked_again(name: str, configure: Configure) -> None:
    (first,) = run(configure())
    path = first.cell.folder.path / "samples.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[7] = {**lines[7], name: "yes" if lines[7][name] == "no" else "no", "output": "of another question"}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    said: list[str] = []
    (again,) = run(configure(), said.append)
    assert list(again.timed) == [lines[7]["id"]]
    assert any("asks 1 again that were asked otherwise" in line for line in said)
    assert without_times(again.cell.folder.samples()) == without_times(list(first.records))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("on_error", ["stop", "record"])
def test_logits_that_are_not_finite_stop_a_run(
    value: float, sampled: bool, on_error: str, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **options: Any) -> LoadedModel:
        loaded = load_model(*args, **options)
        with torch.no_grad():
            loaded.model.lm_head.weight[3] = value
        return loaded

    monkeypatch.setattr("benchmarks.running.answers.load_model", broken)
    config = configure(on_error=on_error, generation={"max_new_tokens": 3, "do_sample": sampled})
    with pytest.raises(RunFailedError, match=r"NotFiniteError: logits that are not finite: got .* for sample '\d-1'"):
        run(config)


def test_the_first_row_that_is_not_finite_is_named() -> None:
    ids, forbidden = torch.zeros(4, 1, dtype=torch.long), torch.full((4, 3), -torch.inf)
    fine = forbidden.clone()
    fine[:, 1] = 2.0
    assert torch.equal(FiniteLogits(["a", "b"])(ids, fine), fine)
    fine[2, 0] = torch.nan  # the first of two beams of the second prompt
    with pytest.raises(NotFiniteError, match="got nan for sample 'b'"):
        FiniteLogits(["a", "b"])(ids, fine)
    with pytest.raises(NotFiniteError, match="got -inf for sample 'a'"):
        FiniteLogits(["a", "b"])(ids, forbidden)
