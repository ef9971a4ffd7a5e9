"""Several processes: their number changes no record, one that fails takes all along, nothing is lost or done twice."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miniature import without_times, write_coco
from torch.distributed import HashStore

import scr
from benchmarks.asking.answering import Answer, Question
from benchmarks.records import RecordError
from benchmarks.running import answers, runner
from benchmarks.running import ranks as ranks_module
from benchmarks.running.outcomes import Outcome, RunFailedError, finish
from benchmarks.running.plan import Plan, RunConfig, build_plan
from benchmarks.running.ranks import FailedElsewhereError, Ranks, RanksError, World, device_of, find_world
from benchmarks.running.runner import run_plan
from benchmarks.store import FolderInUseError, RunFolder, find_runs
from scr.reading import AnswerTokens

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.usefixtures("one_thread")
LAUNCHED = {"WORLD_SIZE": "4", "RANK": "3", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


class FakeAnswerer:
    """Answers by the question's name. `hurdle` is called with the name of each batch's first question."""

    hurdle: Callable[[str], None] = staticmethod(lambda name: None)

    def __init__(self, loaded: Any) -> None:
        self.answer_tokens = AnswerTokens(yes=(5,), no=(6,))

    def answer(self, questions: list[Question], generation: Any, *, seed: int, margins: bool) -> list[Answer]:
        type(self).hurdle(questions[0].id)
        return [
            Answer(
                text="Yes" if sum(map(ord, one.id)) % 3 else "No",
                margin=sum(map(ord, one.id)) / 7 - 30,
                new_tokens=2,
                prefill_ms=1.0,
                decode_ms=2.0,
            )
            for one in questions
        ]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeAnswerer]:
    model = SimpleNamespace(model=SimpleNamespace(config=SimpleNamespace(_attn_implementation="sdpa")))
    monkeypatch.setattr(answers, "load_model", lambda *args, **options: model)
    monkeypatch.setattr(FakeAnswerer, "hurdle", staticmethod(lambda name: None))
    monkeypatch.setattr(answers, "Answerer", FakeAnswerer)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(
        "benchmarks.running.cells.checkout_state", lambda: (None, None)
    )  # git takes longer than all the rest
    return FakeAnswerer


@pytest.fixture(scope="module")
def plan(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """48 questions about 8 images in batches of 5."""
    data = write_coco(tmp_path_factory.mktemp("data") / "coco")
    config = RunConfig(
        model=str(checkpoint), data_dir=data, methods=("none",), tasks=("pope_random",), limit=None, batch_size=5
    )
    return build_plan(config)


def placed(plan: Plan, root: Path, **changes: Any) -> Plan:
    """The plan as a process of its own would build it, with its records in another place."""
    config = dataclasses.replace(plan.config, output_dir=root, **changes)
    cells = [
        dataclasses.replace(one, folder=RunFolder(root, *one.folder.path.parts[-3:-1], one.method, one.folder.digest))
        for one in plan.cells
    ]
    return dataclasses.replace(plan, config=config, cells=tuple(cells))


def run_together(plan: Plan, root: Path, size: int, silence: float = 60.0, **changes: Any) -> list[Any]:
    """What each of `size` processes returns or raises; here they are threads that share a store."""
    store = HashStore()
    found: list[Any] = [None] * size

    def work(rank: int) -> None:
        ranks = Ranks(World(rank, size, rank, size), store if size > 1 else None, silence)
        try:
            with ranks.telling():
                found[rank] = run_plan(placed(plan, root, **changes), ranks=ranks)
        except BaseException as error:
            found[rank] = error
        ranks.leave()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    [thread.start() for thread in threads]
    [thread.join(30) for thread in threads]
    assert not any(thread.is_alive() for thread in threads)
    return found


def lines(plan: Plan, root: Path) -> list[bytes]:
    return (placed(plan, root).cells[0].folder.path / "samples.jsonl").read_bytes().splitlines(keepends=True)


def test_any_number_of_processes_leaves_the_same_files(fake: type, plan: Plan, tmp_path: Path) -> None:
    results = {}
    for size in (1, 2, 3, 16):  # the last ones have nothing to do
        root = tmp_path / str(size)
        (outcome,), *others = run_together(plan, root, size)
        assert others == [[]] * (size - 1)
        assert isinstance(outcome, Outcome)
        assert outcome.run.world_size == size
        assert {path.name for path in outcome.cell.folder.path.iterdir()} == {"run.json", "samples.jsonl", ".lock"}
        assert len(set(outcome.timed.values())) == min(size, 10)
        results[size] = lines(plan, root), outcome.run.metrics, outcome.run.intervals
    assert len(results[1][0]) == 48
    assert results[1] == results[2] == results[3] == results[16]


@pytest.fixture
def straight(fake: type, plan: Plan, tmp_path: Path) -> list[bytes]:
    run_together(plan, tmp_path / "straight", 1)
    return lines(plan, tmp_path / "straight")


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_a_kill_leaves_any_number_of_processes_goes_on(
    straight: list[bytes], plan: Plan, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("killed")
    folder = placed(plan, root).cells[0].folder
    folder.path.mkdir(parents=True)
    done = data.draw(st.integers(0, 9), label="batches merged before")
    before, size = data.draw(st.sampled_from([1, 2, 3, 5])), data.draw(st.sampled_from([1, 2, 4]))
    (folder.path / "samples.jsonl").write_bytes(b"".join(straight[: 5 * done]))
    kept = {json.loads(line)["id"] for line in straight[: 5 * done]}
    for rank in range(before):
        share = [line for batch in range(done + rank, 10, before) for line in straight[5 * batch : 5 * batch + 5]]
        content = b"".join(share)
        content = content[: data.draw(st.integers(0, len(content)), label=f"bytes of process {rank}")]
        name = "samples.jsonl" if before == 1 else f"samples.rank{rank:04d}.jsonl"
        with (folder.path / name).open("ab") as file:
            file.write(content)
        whole = [line for line in content.split(b"\n") if line and line + b"\n" in share]
        kept |= {json.loads(line)["id"] for line in whole}
    assert folder.ids() == kept  # before anything is merged
    (outcome,), *_ = run_together(plan, root, size)
    assert lines(plan, root) == straight
    assert not set(outcome.timed) & kept
    assert len(outcome.timed) == 48 - len(kept)
    assert not list(folder.path.glob("samples.rank*"))


def test_a_merge_cut_short_repeats_nothing(straight: list[bytes], plan: Plan, tmp_path: Path) -> None:
    folder = placed(plan, tmp_path).cells[0].folder
    folder.path.mkdir(parents=True)
    # The whole is there, the parts are not deleted yet.
    (folder.path / "samples.jsonl").write_bytes(b"".join(straight))
    (folder.path / "samples.rank0000.jsonl").write_bytes(b"".join(straight[:5]))
    (folder.path / "samples.rank0001.jsonl").write_bytes(b"".join(straight[5:9]) + straight[9][:30])
    assert len(folder.samples()) == 48
    (outcome,), _ = run_together(plan, tmp_path, 2)
    assert len(outcome.timed) == 0
    assert lines(plan, tmp_path) == straight
    assert not list(folder.path.glob("samples.rank*"))
    (folder.path / "samples.rank0001.jsonl").write_bytes(straight[0] + b"{}\n" + straight[1])
    with pytest.raises(RecordError, match=r"line 2 of .*samples\.rank0001\.jsonl"):
        folder.samples()


def test_a_limit_is_passed_by_any_number(straight: list[bytes], plan: Plan, tmp_path: Path) -> None:
    """A batch that reaches beyond the limit is recorded in part, and its rest by the longer run."""
    short = dataclasses.replace(plan, cells=tuple(_limited(cell, 18) for cell in plan.cells))
    run_together(short, tmp_path, 2, limit=3)
    assert lines(plan, tmp_path) == straight[:18]
    (outcome,), *_ = run_together(plan, tmp_path, 3)
    assert len(outcome.timed) == 30
    assert lines(plan, tmp_path) == straight


def _limited(cell: Any, wanted: int) -> Any:
    return dataclasses.replace(cell, work=dataclasses.replace(cell.work, wanted=wanted))


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_one_that_fails_takes_all_along(
    rank: int, fake: type[FakeAnswerer], straight: list[bytes], plan: Plan, tmp_path: Path, monkeypatch: Any
) -> None:
    start = json.loads(straight[5 * (3 + rank)])["id"]  # its second batch

    def hurdle(name: str) -> None:
        time.sleep(0.02)
        if name == start:
            raise ValueError("out of memory")

    monkeypatch.setattr(fake, "hurdle", staticmethod(hurdle))
    found = run_together(plan, tmp_path, 3)
    assert isinstance(found[0], RunFailedError)
    assert all(isinstance(error, RunFailedError if rank == own else FailedElsewhereError)
               for own, error in enumerate(found) if own)  # fmt: skip
    folder = placed(plan, tmp_path).cells[0].folder
    stopped = folder.read_run()
    assert stopped is not None
    assert stopped.status == "failed"
    assert stopped.error == f"ValueError: out of memory (batch {start} … {_last(straight, start)}, process {rank} of 3)"
    for error in found:
        assert stopped.error in str(error)
    assert f"{len(folder.ids())} answers are kept" in str(found[0])
    assert 10 <= len(lines(plan, tmp_path)) < 48  # merged
    monkeypatch.setattr(fake, "hurdle", staticmethod(lambda name: None))
    run_together(plan, tmp_path, 2)
    assert lines(plan, tmp_path) == straight


def _last(straight: list[bytes], start: str) -> str:
    names = [json.loads(line)["id"] for line in straight]
    return names[names.index(start) + 4]


def test_a_fault_outside_of_a_batch_is_heard_too(fake: Any, plan: Plan, tmp_path: Path, monkeypatch: Any) -> None:
    def broken(cell: Any, batches: Any, *rest: Any) -> dict[str, int]:
        raise OSError("disk full")

    monkeypatch.setattr(runner, "turns", broken)
    first, *others = run_together(plan, tmp_path, 3)
    assert isinstance(first, OSError)
    for error in others:
        assert isinstance(error, FailedElsewhereError)
        assert "OSError: disk full (process 0 of 3)" in str(error)


def test_one_that_is_never_heard_of_is_given_up(fake: type, plan: Plan, tmp_path: Path) -> None:
    ranks = Ranks(World(0, 2, 0, 2), HashStore(), silence=0.3)
    started = time.monotonic()
    with pytest.raises(RanksError, match="no sign of life from process 1 of 2"):
        run_plan(placed(plan, tmp_path), ranks=ranks)
    assert time.monotonic() - started < 10
    stopped = placed(plan, tmp_path).cells[0].folder.read_run()
    assert stopped is not None
    assert stopped.status == "failed"
    assert "no sign of life" in str(stopped.error)
    # What was answered is kept, and the next run goes on from there.
    (outcome,) = run_together(plan, tmp_path, 1)[0]
    assert len(outcome.timed) == 23


def test_one_that_is_slow_is_waited_for(fake: type[FakeAnswerer], plan: Plan, tmp_path: Path, monkeypatch: Any) -> None:
    slow = {sample.id for sample in plan.cells[0].work.samples[5::10]}  # the second process's batches
    monkeypatch.setattr(fake, "hurdle", staticmethod(lambda name: time.sleep(0.35 if name in slow else 0)))
    (outcome,), other = run_together(plan, tmp_path, 2, silence=1.0)  # five batches and a warm-up: 2.1 s
    assert len(outcome.records) == 48
    assert other == []


def test_one_that_works_on_one_batch_for_long_still_beats(
    fake: type[FakeAnswerer], plan: Plan, tmp_path: Path, monkeypatch: Any
) -> None:
    slow = plan.cells[0].work.samples[5].id
    monkeypatch.setattr(fake, "hurdle", staticmethod(lambda name: time.sleep(1.2 if name == slow else 0)))
    (outcome,), other = run_together(plan, tmp_path, 2, silence=0.4)
    assert len(outcome.records) == 48
    assert other == []


def test_one_that_beats_and_stands_still_is_given_up() -> None:
    store = HashStore()
    alive = Ranks(World(1, 2, 1, 2), store, silence=0.2)
    waiting = Ranks(World(0, 2, 0, 2), store, silence=0.2, standstill=1.0)
    with pytest.raises(RanksError, match="no sign of life from process 1 of 2: got none for 1 s"):
        waiting.meet()
    alive._left.set()
    with pytest.raises(RanksError, match="got none for 0 s"):  # it beats no more, as after a kill
        Ranks(World(0, 2, 0, 2), store, silence=0.2, standstill=60.0).meet()


def test_a_lost_store_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*rest: Any) -> Any:
        calls.append(rest)
        raise RuntimeError("Failed to recv, got 0 bytes.\nException raised from recvBytes at Utils.hpp\nframe #0: c10")

    calls: list[Any] = []
    ranks = Ranks(World(1, 2, 1, 2), SimpleNamespace(add=broken, set=broken, check=broken), silence=60)
    for _ in range(3):
        with pytest.raises(RanksError, match="got Failed to recv, got 0 bytes; expected the store of the launcher"):
            ranks.step()
    ranks.leave()
    assert len(calls) == 1


def test_a_folder_in_use_is_refused_by_all(fake: type, plan: Plan, tmp_path: Path) -> None:
    folder = placed(plan, tmp_path).cells[0].folder
    with folder.lock():
        first, second = run_together(plan, tmp_path, 2)
    assert isinstance(first, FolderInUseError)
    assert isinstance(second, FailedElsewhereError)
    # The first process of a run was killed, the second one still writes.
    with folder.part(1), pytest.raises(FolderInUseError, match="another process writes"):
        placed(plan, tmp_path).cells[0].folder.merge([])
    with folder.part(1):
        first, second = run_together(plan, tmp_path, 2, overwrite=True)
    assert isinstance(first, FolderInUseError)
    assert isinstance(second, FailedElsewhereError)


def test_ratios_are_of_samples_that_one_process_timed_twice(fake: type, plan: Plan, tmp_path: Path) -> None:
    none = plan.cells[0]
    method = dataclasses.replace(
        none, method="none2", folder=RunFolder(tmp_path, "pope_random", "m", "none2", "0" * 10)
    )
    (baseline,) = run_together(plan, tmp_path, 1)[0]
    run_together(plan, tmp_path / "other", 1)
    method.folder.append(placed(plan, tmp_path / "other").cells[0].folder.samples())
    record = baseline.cell.folder.read_run()
    moved = {name: 1 for name in baseline.timed}
    assert finish(method, record, moved, baseline).run.timing["prefill_ratio"] is None
    assert finish(method, record, baseline.timed, baseline).run.timing["prefill_ratio"] == 1.0


# The environment


def test_the_world_is_what_the_launcher_says() -> None:
    assert find_world(environment={}) == find_world(environment={"WORLD_SIZE": "1", "RANK": "0"}) == World(0, 1, 0, 1)
    assert find_world(4, LAUNCHED) == World(3, 4, 3, 4)
    assert find_world(None, {**LAUNCHED, "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}) == World(3, 4, 1, 2)
    assert Ranks.join(World()).share([1]) == [1]


@pytest.mark.parametrize(
    ("expected", "environment", "message"),
    [
        (2, {}, r"another number of processes than expected: got 1; expected 2\. .*accelerate launch --cpu"),
        (3, LAUNCHED, "got 4; expected 3"),
        (None, {"WORLD_SIZE": "2"}, "WORLD_SIZE=2 without RANK, MASTER_ADDR, MASTER_PORT"),
        (None, {**LAUNCHED, "RANK": "4"}, "RANK out of range: got 4; expected 0 to 3"),
        (None, {**LAUNCHED, "WORLD_SIZE": "two"}, "WORLD_SIZE out of range: got 'two'"),
    ],
)
def test_a_world_that_cannot_be_is_refused(expected: Any, environment: dict[str, str], message: str) -> None:
    with pytest.raises(scr.ConfigError, match=message):
        find_world(expected, environment)


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    second, alone = World(1, 4, 1, 2), World()
    assert device_of(second, "cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of(second, "auto", "auto") == "auto"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of(second, "auto") == "cuda:1"
    assert device_of(alone, "auto", "auto") == "auto"
    assert device_of(second, "cuda:0") == "cuda:0"
    with pytest.raises(scr.ConfigError, match="a device map with several processes: got 'auto' with 2"):
        device_of(second, "auto", "auto")
    with pytest.raises(scr.ConfigError, match="more processes than GPUs: got 3 on a machine with 2"):
        device_of(World(2, 3, 2, 3), "auto")


def test_nobody_there_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**LAUNCHED, "MASTER_PORT": "9", "WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RanksError, match="process 1 of 2 finds no other"):
        Ranks.join(World(1, 2, 1, 2), limit=1)


def test_leaving_ends_although_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks_module, "_FAREWELL", 0.2)
    Ranks(World(1, 2, 1, 2), HashStore()).leave()


# Processes of their own, with a real launcher


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[int, str, str]]:
    def launch(size: int, *arguments: str) -> tuple[int, str, str]:
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(size)] if size else []
        done = subprocess.run(
            [sys.executable, *launcher, "-m", "benchmarks.run", *arguments],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return launch


LAB = ["--model", "lab/llava", "--tasks", "pope_adversarial", "--method", "scr", "--limit", "4", "--batch-size", "5"]


@pytest.fixture(scope="module")
def alone(launched: Any, tmp_path_factory: pytest.TempPathFactory) -> list[RunFolder]:
    root = tmp_path_factory.mktemp("alone")
    code, _, err = launched(0, *LAB, "--output-dir", str(root))
    assert code == 0, err
    return find_runs(root)


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_answers_are_equal_to_the_last_digit(size: int, launched: Any, alone: list[RunFolder], tmp_path: Path) -> None:
    code, out, err = launched(size, *LAB, "--output-dir", str(tmp_path), "--expect-world-size", str(size))
    assert code == 0, err
    assert out.count("pope_adversarial · 24 samples") == 1  # one process prints
    assert err.count("loading lab/llava") == 1
    for one, other in zip(alone, find_runs(tmp_path), strict=True):
        assert other.digest == one.digest
        assert without_times(other.samples()) == without_times(one.samples())
        ours, theirs = other.read_run(), one.read_run()
        assert ours is not None
        assert theirs is not None
        assert (ours.metrics, ours.intervals) == (theirs.metrics, theirs.intervals)
        assert (ours.world_size, theirs.world_size) == (size, 1)
        assert ours.command.startswith(f"torchrun --nproc-per-node {size} -m benchmarks.run --model lab/llava")
        if ours.method == "scr":
            assert ours.timing["prefill_ratio"] > 0


def test_killed_processes_and_another_number_that_goes_on(
    launched: Any, alone: list[RunFolder], tmp_path: Path
) -> None:
    # The same lab run, 24 questions of which are those of `alone`.
    longer = [*LAB[:-4], "--limit", "60", "--batch-size", "5", "--output-dir", str(tmp_path)]
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "benchmarks.run", *longer]
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 100
        while sum(path.read_bytes().count(b"\n") for path in tmp_path.rglob("samples.rank*.jsonl")) < 40:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        workers = _children(process.pid)
        for pid in (*workers, process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)  # they hold their files until they are gone
    (folder,) = find_runs(tmp_path)
    assert folder.method == "none"
    kept = without_times(folder.samples())
    assert 40 <= len(kept) < 360
    plan = build_plan(RunConfig(tasks=("pope_adversarial",), methods=("none",), limit=16, batch_size=5,
                                output_dir=tmp_path))  # fmt: skip
    (outcome,) = run_plan(plan)
    records = without_times(outcome.cell.folder.samples())
    assert [record for record in records if record in kept] == sorted(kept, key=records.index)
    assert records[:24] == without_times(alone[0].samples())
    assert not list(folder.path.glob("samples.rank*"))


def _children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


@pytest.mark.slow
def test_one_that_fails_ends_the_launcher(launched: Any, checkpoint: Path, tmp_path: Path) -> None:
    data = write_coco(tmp_path / "coco")
    (data / "images" / "000003.png").unlink()
    arguments = ["--model", str(checkpoint), "--data-dir", str(data), "--tasks", "pope_random", "--method", "none"]
    more = ["--limit", "all", "--batch-size", "6", "--output-dir", str(tmp_path / "out")]
    started = time.monotonic()
    code, out, err = launched(2, *arguments, *more)
    assert code == 1
    assert out == ""
    assert time.monotonic() - started < 100
    errors = [line for line in err.splitlines() if line.startswith("error")]
    assert 1 <= len(errors) <= 2  # the first process, and the one that failed
    assert all("FileNotFoundError" in line and "000003.png" in line for line in errors)
    (folder,) = find_runs(tmp_path / "out")
    stopped = folder.read_run()
    assert stopped is not None
    assert stopped.status == "failed"
    assert "of 2)" in str(stopped.error)
