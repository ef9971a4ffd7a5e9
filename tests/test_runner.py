"""The runner: what it records, and that a run which was stopped in any way ends like one that was not."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from miniature import without_times, write_coco

import scr
from benchmarks.asking.answering import Answerer
from benchmarks.asking.speed import OTHER_PROCESS
from benchmarks.printing.table import print_report
from benchmarks.records import SCHEMA, SampleRecord
from benchmarks.running import answers
from benchmarks.running.outcomes import Outcome, RunFailedError
from benchmarks.running.plan import RunConfig, build_plan
from benchmarks.running.rescoring import rescore, scored
from benchmarks.running.runner import run
from benchmarks.store import FolderInUseError, RunFolder, find_runs
from benchmarks.tasks import load_task
from scr.reading import AnswerTokens

ROOT = Path(__file__).parent.parent
Configure = Callable[..., RunConfig]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "coco")


@pytest.fixture
def configure(small_run: Configure) -> Configure:
    """Batches of 5, so that the last one reaches beyond the limit."""
    return functools.partial(small_run, batch_size=5)


def test_what_a_run_leaves_behind(configure: Configure) -> None:
    config = configure(methods=("scr",), tasks=("pope_random", "chair"), method_args={"num_sources": 4})
    outcomes = run(config)
    assert [(one.cell.work.task.name, one.cell.method) for one in outcomes] == [
        ("pope_random", "none"),
        ("pope_random", "scr"),
        ("chair", "none"),
        ("chair", "scr"),
    ]
    assert len(find_runs(config.output_dir)) == 4
    for outcome in outcomes:
        run_record, records = outcome.cell.folder.read_run(), outcome.cell.folder.samples()
        task = outcome.cell.work.task
        assert run_record is not None
        assert outcome.cell.folder.path.parent.name == config.model.replace("/", "--")
        assert (run_record.status, run_record.error, run_record.family) == ("finished", None, "llava")
        assert (run_record.limit, run_record.batch_size, run_record.attention) == (4, 5, "sdpa")
        assert run_record.generation == {"do_sample": False, "max_new_tokens": 3}
        assert run_record.metrics == task.score(records).metrics
        assert len({record.image for record in records}) == 4
        assert [record.id for record in records] == [sample.id for sample in outcome.cell.work.wanted_samples]
        for record in records:
            assert record.new_tokens == 3
            assert record.prefill_ms > 0
            assert record.output == record.output.strip() != ""
            assert (record.margin is None) == (task.kind == "caption")
    with_scr = outcomes[1]
    assert with_scr.run.config_given == {"num_sources": 4}
    assert with_scr.run.config["num_sources"] == 4
    assert with_scr.run.config["layers"] == [0, 3]  # what the family decides is filled in
    margins = [[record.margin for record in outcome.records] for outcome in outcomes[:2]]
    assert margins[0] != margins[1]
    assert with_scr.run.timing["prefill_ratio"] > 0


def test_a_finished_run_is_taken_from_the_store(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configure(methods=("scr",))
    first = run(config)
    monkeypatch.setattr(answers, "load_model", None)  # nothing heavy is loaded
    again = run(dataclasses.replace(config, batch_size=7, device="cpu"))
    assert [one.from_store for one in again] == [True, True]
    assert [one.run for one in again] == [one.run for one in first]
    # A part of it too; the longer run's own record stays what it is.
    part = run(dataclasses.replace(config, limit=2))
    assert [len(one.records) for one in part] == [12, 12]
    assert part[0].scores == scored(load_task("pope_random"), first[0].records[:12])
    assert part[0].cell.folder.read_run() == first[0].run


def test_a_longer_run_goes_on_from_a_shorter_one(configure: Configure, tmp_path: Path) -> None:
    run(configure())
    (longer,) = run(configure(limit=8))
    assert len(longer.timed) == 24
    (straight,) = run(configure(limit=8, output_dir=tmp_path / "straight"))
    # Batches are cut from all samples, so the answers are equal to the last digit.
    assert without_times(longer.cell.folder.samples()) == without_times(straight.cell.folder.samples())
    assert longer.run.metrics == straight.run.metrics
    assert longer.run.limit == 8


def test_batches_depend_on_data_and_batch_size_alone(configure: Configure) -> None:
    def batches(limit: int | None) -> list[list[str]]:
        plan = build_plan(configure(limit=limit)).cells[0].work
        return [[sample.id for sample in batch] for batch in plan.batches()]

    everything = batches(None)
    assert [len(batch) for batch in everything] == [5] * 9 + [3]
    for limit in range(1, 8):
        found = batches(limit)
        assert found == everything[: len(found)]
        assert len(found) == -(-6 * limit // 5)


@pytest.mark.parametrize("lines", [0, 1, 5, 13, 23])
@pytest.mark.parametrize("torn", [b"", b'{"id": "1-1", "ima'])
def test_a_run_goes_on_from_any_point(lines: int, torn: bytes, configure: Configure, straight: Outcome) -> None:
    folder = build_plan(configure()).cells[0].folder
    shutil.copytree(straight.cell.folder.path, folder.path)
    samples = folder.path / "samples.jsonl"
    samples.write_bytes(b"".join(samples.read_bytes().splitlines(keepends=True)[:lines]) + torn)
    (resumed,) = run(configure())
    assert len(resumed.timed) == 24 - lines
    assert without_times(folder.samples()) == without_times(straight.cell.folder.samples())
    assert resumed.run.metrics == straight.run.metrics
    assert resumed.run.created == straight.run.created


@pytest.fixture(scope="module")
def straight(checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The run of `configure()`, without any interruption."""
    config = RunConfig(
        model=str(checkpoint),
        data_dir=data,
        methods=("none",),
        tasks=("pope_random",),
        limit=4,
        batch_size=5,
        generation={"max_new_tokens": 3},
        output_dir=tmp_path_factory.mktemp("straight"),
    )
    return run(config)[0]


def test_a_killed_run_ends_like_one_that_was_not(configure: Configure, checkpoint: Path, data: Path) -> None:
    config = configure(methods=("scr",), limit=None, batch_size=3, generation={"max_new_tokens": 8})
    arguments = [
        *("--model", str(checkpoint), "--data-dir", str(data), "--tasks", "pope_random", "--limit", "all"),
        *("--batch-size", "3", "--gen-kwarg", "max_new_tokens=8", "--output-dir", str(config.output_dir)),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.run", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    # The baseline is done by then, the method has begun.
    folder = build_plan(config).cells[1].folder
    samples, deadline = folder.path / "samples.jsonl", time.monotonic() + 100
    while not (samples.exists() and samples.read_bytes().count(b"\n") >= 9):
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    killed = folder.read_run()
    assert killed is not None
    assert (killed.status, killed.metrics) == ("running", {})
    answered = len(folder.samples())
    assert 9 <= answered < 48
    outcomes = run(config)
    assert [len(outcome.timed) for outcome in outcomes] == [0, 48 - answered]
    direct = run(dataclasses.replace(config, output_dir=config.output_dir / "straight"))
    for outcome, expected in zip(outcomes, direct, strict=True):
        assert without_times(outcome.cell.folder.samples()) == without_times(expected.cell.folder.samples())
        assert outcome.run.metrics == expected.run.metrics
        assert outcome.run.status == "finished"


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_a_failing_batch_stops_the_run_and_is_told(
    error: BaseException, configure: Configure, straight: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, calls = Answerer.answer, 0

    def failing(self: Answerer, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:  # after the warm-up and two batches
            raise error
        return answer(self, *args, **kwargs)

    folder = build_plan(configure()).cells[0].folder
    with monkeypatch.context() as patched:
        patched.setattr(Answerer, "answer", failing)
        with pytest.raises(RunFailedError if isinstance(error, RuntimeError) else KeyboardInterrupt) as raised:
            run(configure())
    stopped = folder.read_run()
    assert stopped is not None
    assert len(folder.samples()) == 10
    if isinstance(error, RuntimeError):
        ids = [sample.id for sample in straight.cell.work.samples[10:15]]
        assert stopped.status == "failed"
        assert stopped.error == f"RuntimeError: out of memory (batch {ids[0]} … {ids[-1]})"
        assert "10 answers are kept" in str(raised.value)
    else:
        assert stopped.status == "running"
    (resumed,) = run(configure())
    assert (resumed.run.status, resumed.run.error) == ("finished", None)
    assert without_times(folder.samples()) == without_times(straight.cell.folder.samples())


def test_a_sampled_run_is_reproducible_batch_by_batch(configure: Configure) -> None:
    sampled = configure(generation={"do_sample": True, "temperature": 2.0, "max_new_tokens": 4})
    first, _ = run(sampled)  # the second is greedy
    samples = first.cell.folder.path / "samples.jsonl"
    samples.write_bytes(b"".join(samples.read_bytes().splitlines(keepends=True)[:12]))
    torch.rand(7)
    again, _ = run(sampled)
    assert without_times(list(again.records)) == without_times(list(first.records))
    other, _ = run(dataclasses.replace(sampled, seed=1))
    assert other.cell.folder.path != first.cell.folder.path


def test_overwrite_discards(configure: Configure, straight: Outcome) -> None:
    (first,) = run(configure())
    mark = first.records[0].to_dict() | {"output": "marked"}
    samples = first.cell.folder.path / "samples.jsonl"
    lines = samples.read_text().splitlines(keepends=True)
    samples.write_text("".join([json.dumps(mark) + "\n", *lines[1:]]))
    (again,) = run(configure(overwrite=True))
    assert len(again.timed) == 24
    assert without_times(again.cell.folder.samples()) == without_times(straight.cell.folder.samples())


def test_what_names_a_run(configure: Configure, checkpoint: Path, tmp_path: Path) -> None:
    def digests(**fields: Any) -> list[str]:
        return [cell.folder.digest for cell in build_plan(configure(methods=("scr",), **fields)).cells]

    baseline, method = digests()
    assert digests(limit=8, batch_size=3, device="cpu", attn_implementation="eager") == [baseline, method]
    assert digests(method_args={"scale": 1.1}) == [baseline, method]  # what is the default anyway
    both_change = ({"seed": 1}, {"prompt": "one_word"}, {"dtype": "bfloat16"}, {"generation": {"max_new_tokens": 4}})
    for fields in both_change:
        assert not set(digests(**fields)) & {baseline, method}, fields
    changed = digests(method_args={"scale": 1.2})
    assert changed[0] == baseline
    assert changed[1] != method
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    assert digests(model=str(other)) == [baseline, method]
    (other / "generation_config.json").write_text('{"repetition_penalty": 1.5}')
    assert not set(digests(model=str(other))) & {baseline, method}


def test_settings_beside_a_checkpoint_are_the_defaults(configure: Configure, checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tuned"
    shutil.copytree(checkpoint, folder)
    (folder / "scr.json").write_text(json.dumps({"settings": {"num_sources": 5, "layers": [1, 3]}, "note": "a grid"}))
    config = configure(model=str(folder), methods=("scr", "uniform_smooth"), method_args={"num_sources": 6})
    none, tuned, uniform = build_plan(config).cells
    assert (none.config, none.config_given) == ({}, {})
    assert tuned.config_given == uniform.config_given == {"num_sources": 6, "layers": [1, 3]}
    assert tuned.config["layers"] == [1, 3]
    assert uniform.config["source"] == "random"
    # What was planned without weights is what the loaded model gets, or the run would fail.
    assert run(config)[1].run.config == tuned.config
    (folder / "scr.json").write_text(json.dumps({"settings": {"num_source": 5}}))
    with pytest.raises(scr.ConfigError, match="Did you mean 'num_sources'"):
        build_plan(config)


def test_the_prompt_variant_is_what_is_asked_and_recorded(configure: Configure) -> None:
    pope, chair = run(configure(prompt="one_word", tasks=("pope_random", "chair")))
    assert pope.records[0].prompt.endswith(" in the image?\nAnswer the question using a single word or phrase.")
    assert chair.records[0].prompt == "Please describe this image in detail."
    plain = run(configure())[0]
    assert [record.margin for record in plain.records] != [record.margin for record in pope.records]


def test_a_baseline_that_was_computed_otherwise_is_named(configure: Configure) -> None:
    run(configure())
    config = configure(methods=("scr",), batch_size=8, attn_implementation="eager")
    printed = io.StringIO()
    print_report(build_plan(config), run(config), printed)
    told = "scr, not computed as none: batches of 8 against 5, eager against sdpa (a near-tie can flip)"
    assert told in " ".join(printed.getvalue().split())
    run(dataclasses.replace(config, overwrite=True))
    printed = io.StringIO()
    print_report(build_plan(config), run(config), printed)
    assert "not computed as" not in printed.getvalue()


def test_a_baseline_from_another_process_gives_no_ratio(configure: Configure) -> None:
    run(configure())
    _, method = run(configure(methods=("scr",)))
    assert method.run.timing["prefill_ratio"] is None
    assert method.run.timing["prefill_ms"] > 0
    assert method.run.reasons["timing.ratio"] == OTHER_PROCESS


def test_no_margin_where_yes_and_no_cannot_be_told_apart(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.asking.answering.answer_tokens", lambda _: AnswerTokens((), (), "no such words"))
    (outcome,) = run(configure())
    assert {record.margin for record in outcome.records} == {None}
    assert outcome.run.metrics["auc"] is None
    assert outcome.run.reasons["margin"] == "no such words"
    rescore(outcome.cell.folder.path.parents[2])
    kept = outcome.cell.folder.read_run()
    assert kept is not None
    assert kept.reasons["margin"] == "no such words"


def test_rescoring_rebuilds_metrics_from_samples(configure: Configure) -> None:
    config = configure(tasks=("pope_random", "chair"))
    outcomes = run(config)
    # Records beyond the limit are those of an interrupted longer run, and do not count.
    folder, good = outcomes[0].cell.folder, outcomes[0].run
    extra = dataclasses.replace(outcomes[0].records[0], id="99-1", image="another.png")
    RunFolder.append(folder, [extra])
    folder.write_run(dataclasses.replace(good, metrics={"accuracy": 2.0}, counts={}))
    changed, same = sorted(rescore(config.output_dir), key=lambda one: one.folder.task, reverse=True)
    assert "accuracy" in changed.changed
    assert folder.read_run() == good
    assert (same.changed, same.problem) == ((), None)
    (folder.path / "run.json").unlink()
    problems = [one.problem for one in rescore(config.output_dir)]
    assert any(problem is not None and "no run.json" in problem for problem in problems)
    (again,) = run(configure())
    assert again.from_store  # all answers were there: only the record was written again
    assert again.run.metrics == good.metrics


def test_who_only_counts_again_does_not_say_it_answered(configure: Configure) -> None:
    config = configure(limit=8, methods=("scr",))
    outcomes = run(config)
    told = {"device": "elsewhere", "commit": "c" * 40, "batch_size": 3, "reasons": {"margin": "none here"}}
    for one in outcomes:
        # Killed after the last answer, or begun with a larger limit: see `kept_run`.
        one.cell.folder.write_run(dataclasses.replace(one.run, status="running", limit=None, timing={}, **told))
    for one in run(dataclasses.replace(config, limit=4, batch_size=7)):
        kept = one.cell.folder.read_run()
        assert kept is not None
        assert one.from_store
        assert (kept.device, kept.commit, kept.batch_size) == ("elsewhere", "c" * 40, 3)
        assert kept.reasons["margin"] == "none here"
        assert (kept.status, kept.limit, kept.counts["n"]) == ("finished", 4, 24)
        assert kept.timing["batches"] == 8
    # Counted once more for all images that there are, with the ratios that were measured.
    method = outcomes[1]
    method.cell.folder.write_run(dataclasses.replace(method.run, timing={**method.run.timing, "prefill_ratio": 1.25}))
    (_, again) = run(dataclasses.replace(config, limit=99))
    assert (again.run.limit, again.run.timing["prefill_ratio"]) == (99, 1.25)


def test_records_of_the_schema_before_are_graded_when_a_run_goes_on(configure: Configure) -> None:
    (outcome,) = run(configure(tasks=("chair",)))
    folder = outcome.cell.folder
    old = [dataclasses.replace(record, found=None) for record in outcome.records[:2]]
    folder.clear()
    folder.append(old)
    folder.write_run(dataclasses.replace(outcome.run, schema=1, status="running"))
    (again,) = run(configure(tasks=("chair",)))
    assert again.cell.folder.path == folder.path
    assert [record.found for record in again.records] == [record.found for record in outcome.records]
    assert None not in [record.found for record in again.records]
    assert again.run.schema == SCHEMA


def test_a_folder_in_use_is_refused(configure: Configure) -> None:
    folder = build_plan(configure()).cells[0].folder
    with folder.lock(), pytest.raises(FolderInUseError, match="another process writes"):
        run(configure())


def test_the_model_is_left_as_it_was(configure: Configure, straight: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[SampleRecord] = []
    for methods in (("none",), ("scr",)):
        outcomes = run(configure(methods=methods, tasks=("pope_random", "pope_popular"), overwrite=True))
        # The second task's baseline comes after the first task's method, on the same model.
        made.append(next(one for one in outcomes if one.cell.work.task.name == "pope_popular").records)
    assert without_times(made[0]) == without_times(made[1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"methods": ("scrr",)}, "unknown method: got 'scrr'.*Did you mean 'scr'"),
        ({"methods": ()}, "no methods"),
        ({"method_args": {"scale": 1.2}}, "settings without a method"),
        ({"methods": ("scr",), "method_args": {"scale": 0.5}}, "scale"),
        ({"batch_size": 0}, "batch_size out of range: got 0"),
        ({"limit": -1}, "limit out of range: got -1"),
        ({"generation": {"max_token": 3}}, "unknown generation argument: got 'max_token'"),
        ({"generation": {"num_return_sequences": 2}}, "that the runner sets itself"),
        ({"data_dir": None}, "no data.*Give --data-dir"),
        ({"split": "test"}, "unknown split"),
        ({"dtype": "int4"}, "unknown dtype"),
    ],
)
def test_what_cannot_be_run_is_refused_before_a_model_is_loaded(
    fields: dict[str, Any], message: str, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "load_model", None)
    with pytest.raises(scr.ConfigError, match=message):
        run(configure(**fields))
