"""The folder of a run: kills at any byte, second writers, repeated samples, and the name of a configuration."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_records import run_record, sample_record

from benchmarks.records import RecordError
from benchmarks.store import FolderInUseError, RunFolder, config_hash, find_runs

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path, "chair", "lab/llava", "scr", "0123456789")


def reopened(folder):
    return RunFolder(folder.path.parents[2], folder.task, folder.model, folder.method, folder.digest)


def samples(*ids):
    return [sample_record(id=name) for name in ids]


def test_layout(folder, tmp_path):
    assert folder.path == tmp_path / "chair" / "lab--llava" / "scr-0123456789"
    assert not folder.path.exists()
    assert folder.read_run() is None
    assert folder.samples() == []
    folder.write_run(run_record())
    folder.append(samples("a"))
    assert {path.name for path in folder.path.iterdir()} == {"run.json", "samples.jsonl"}


def test_what_is_written_is_read_back(folder):
    run = run_record(metrics={"recall": None}, command="run --model \udcff ünï")
    folder.write_run(run)
    folder.write_run(run)
    awkward = sample_record(id="b", output='two\nlines\u2028, "quotes", \ud800, ünï, \x00', trace={"x": [1.5]})
    folder.append([*samples("a"), awkward])
    folder.append(samples("c"))
    assert reopened(folder).read_run() == run
    assert reopened(folder).samples() == [*samples("a"), awkward, *samples("c")]
    (folder.path / "samples.jsonl").read_text(encoding="utf-8")


def test_a_kill_at_any_byte_loses_at_most_the_torn_sample(folder, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a thousand of them take seconds
    folder.append([sample_record(id="a", output="Yes"), sample_record(id="b", output="Nö"), sample_record(id="c")])
    path = folder.path / "samples.jsonl"
    content = path.read_bytes()
    whole = [line + b"\n" for line in content.splitlines()]
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        # A line is whole when all but its line break is there.
        expected = sum(len(b"".join(whole[: count + 1])) - 1 <= length for count in range(3))
        again = reopened(folder)
        assert [record.id for record in again.samples()] == ["a", "b", "c"][:expected]
        again.append(samples("d"))
        assert [record.id for record in reopened(folder).samples()] == [*["a", "b", "c"][:expected], "d"]
        assert path.read_bytes().endswith(b"\n")


def test_reading_a_torn_file_does_not_change_it(folder):
    folder.append(samples("a"))
    path = folder.path / "samples.jsonl"
    path.write_bytes(path.read_bytes() + b'{"id": "b", "im')
    before = path.read_bytes()
    assert len(reopened(folder).samples()) == 1
    assert path.read_bytes() == before


def test_damage_before_the_end_is_an_error_that_names_the_line(folder):
    folder.append(samples("a", "b", "c"))
    path = folder.path / "samples.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:20] + b"\n" + lines[2])
    with pytest.raises(RecordError, match=r"line 2 of .*expected one sample"):
        reopened(folder).samples()
    with pytest.raises(RecordError):
        reopened(folder).append(samples("d"))


def test_no_sample_twice(folder):
    folder.append(samples("a"))
    for again in (folder, reopened(folder)):
        with pytest.raises(RecordError, match="has this sample already: got id 'a'"):
            again.append(samples("b", "a"))
        with pytest.raises(RecordError, match="got id 'c'"):
            again.append(samples("c", "c"))
    assert [record.id for record in folder.samples()] == ["a"]
    path = folder.path / "samples.jsonl"
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(RecordError, match=r"line 2 .*repeats a sample: got id 'a'"):
        reopened(folder).samples()


def test_a_failed_write_does_not_break_the_next_one(folder, monkeypatch):
    folder.append(samples("a"))
    whole = os.fsync

    def full_disk(descriptor):
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - 9)
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        folder.append(samples("b"))
    monkeypatch.setattr(os, "fsync", whole)
    folder.append(samples("b"))
    assert [record.id for record in reopened(folder).samples()] == ["a", "b"]


def test_an_interrupted_write_of_the_run_leaves_the_old_one(folder, monkeypatch):
    folder.write_run(run_record(status="running"))

    def killed(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.write_run(run_record(status="finished"))
    assert reopened(folder).read_run().status == "running"


def test_an_unreadable_run_is_an_error(folder):
    folder.write_run(run_record())
    (folder.path / "run.json").write_text('{"schema": 1,')
    with pytest.raises(RecordError, match=r"run\.json is no JSON: .*delete it and run again"):
        folder.read_run()


def test_clear_forgets_everything(folder):
    folder.write_run(run_record())
    folder.append(samples("a"))
    folder.clear()
    assert folder.read_run() is None
    assert folder.samples() == []
    folder.append(samples("a"))


@pytest.mark.parametrize("held", ["lock()", "part(3)"])
def test_a_folder_in_use_is_refused_and_free_after_a_kill(folder, held):
    code = (
        "import sys, pathlib; from benchmarks.store import RunFolder\n"
        f"with RunFolder(pathlib.Path(sys.argv[1]), 'chair', 'lab/llava', 'scr', '0123456789').{held}:\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )

    def hold(one):
        return one.lock() if held == "lock()" else one.part(3)

    command = [sys.executable, "-c", code, str(folder.path.parents[2])]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(FolderInUseError, match="another process writes"), hold(folder):
            pass
        with pytest.raises(FolderInUseError):
            folder.remove() if held == "lock()" else folder.merge([])
        other.kill()
        other.wait()
    assert list(folder.path.glob(".*lock")), "a kill leaves the file of the lock"
    with hold(folder), pytest.raises(FolderInUseError), hold(reopened(folder)):
        pass
    assert folder.remove(), "and what it leaves is deleted with the run"
    assert not folder.path.parent.parent.exists()


def test_a_file_system_without_locks_is_an_error(folder, monkeypatch):
    """Not a file in place of a lock, which would stay after a kill."""
    fcntl = pytest.importorskip("fcntl")

    def missing(descriptor, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", missing)
    with pytest.raises(OSError, match="not implemented"), folder.lock():
        pass


def test_what_another_process_appended_before_the_lock_is_seen(folder):
    folder.append(samples("a"))
    reopened(folder).append(samples("b"))
    with folder.lock(), pytest.raises(RecordError, match="got id 'b'"):
        folder.append(samples("b"))


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_names_that_lead_out_of_the_layout_are_refused(tmp_path, name):
    for position in range(4):
        parts = ["chair", "lab/llava", "scr", "0123456789"]
        parts[position] = name
        with pytest.raises(RecordError, match="cannot name a folder"):
            RunFolder(tmp_path, *parts)


def test_parts_are_read_before_they_are_merged(folder):
    folder.append(samples("a"))
    first, second = reopened(folder), reopened(folder)
    with first.part(0), second.part(12):
        first.append(samples("d"))
        second.append(samples("b"))
        first.append(samples("c"))
        with pytest.raises(RecordError, match="got id 'b'"):
            reopened(folder).append(samples("b"))
    assert {path.name for path in folder.path.glob("samples*")} == {
        "samples.jsonl", "samples.rank0000.jsonl", "samples.rank0012.jsonl",
    }  # fmt: skip
    assert [record.id for record in folder.samples()] == ["a", "d", "c", "b"]
    assert folder.ids() == {"a", "b", "c", "d"}
    folder.merge(["a", "b", "c"])  # what the order does not name comes last
    assert [path.name for path in folder.path.glob("samples*")] == ["samples.jsonl"]
    assert [record.id for record in reopened(folder).samples()] == ["a", "b", "c", "d"]
    folder.append(samples("e"))
    assert len(folder.samples()) == 5


def test_merging_what_lies_in_order_writes_nothing(folder):
    folder.merge(["a"])
    assert not folder.path.exists()
    folder.append(samples("a", "b"))
    before = (folder.path / "samples.jsonl").stat()
    folder.merge(["a", "x", "b"])
    after = (folder.path / "samples.jsonl").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    folder.merge(["b", "a"])
    assert [record.id for record in folder.samples()] == ["b", "a"]


@pytest.mark.parametrize("call", ["fsync", "replace", "unlink"])
def test_a_merge_that_is_killed_loses_nothing(folder, call, monkeypatch):
    folder.append(samples("b"))
    for rank, names in enumerate((["a", "d"], ["c"])):
        part = reopened(folder)
        with part.part(rank):
            part.append(samples(*names))

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path if call == "unlink" else os, call, killed)
        with pytest.raises(KeyboardInterrupt):
            folder.merge("abcd")
    assert folder.ids() == set("abcd")
    assert len(folder.samples()) == 4
    folder.merge("abcd")
    assert [record.id for record in folder.samples()] == list("abcd")
    assert not list(folder.path.glob("samples.rank*"))


def test_clear_forgets_parts_too(folder):
    with folder.part(3):
        folder.append(samples("a"))
        with pytest.raises(FolderInUseError):
            reopened(folder).clear()
    folder.clear()
    assert folder.samples() == []
    assert not list(folder.path.glob("samples*"))


def test_samples_are_replaced_by_the_same_ones_alone(folder):
    folder.append(samples("1", "2"))
    with folder.part(3):
        folder.append(samples("3"))
    graded = [dataclasses.replace(one, answer="graded") for one in folder.samples()]
    with pytest.raises(RecordError, match="other samples than those in"):
        folder.replace_samples(graded[:2])
    folder.replace_samples(graded)
    assert folder.samples() == graded
    assert [path.name for path in folder.path.glob("samples*")] == ["samples.jsonl"]


def test_find_runs(tmp_path):
    assert find_runs(tmp_path / "nothing") == []
    names = [("pope_random", "lab/llava", "none"), ("chair", "a/b-c", "uniform_smooth"), ("chair", "a/b-c", "none")]
    for task, model, method in names:
        RunFolder(tmp_path, task, model, method, "0123456789").write_run(run_record(task=task))
    RunFolder(tmp_path, "chair", "m", "scr", "0123456789").append(samples("a"))
    (tmp_path / "chair" / "m" / "empty-0123456789").mkdir()
    found = find_runs(tmp_path)
    assert [run.path for run in found] == sorted(run.path for run in found)
    assert {(run.task, run.model, run.method) for run in found} == {*names, ("chair", "m", "scr")}
    assert all(RunFolder(tmp_path, r.task, r.model, r.method, r.digest).path == r.path for r in found)


def test_config_hash_is_stable_and_tells_configurations_apart():
    assert config_hash({"method": "scr", "config": {"scale": 0.5}}) == "d24911efcb"
    one = {"a": [1, 2], "b": {"x": 1.0, "y": None}}
    assert config_hash(one) == config_hash({"b": {"y": None, "x": 1}, "a": (1, 2)})
    different = [
        one,
        {**one, "a": [2, 1]},
        {**one, "c": None},
        {**one, "b": {"x": 1.5, "y": None}},
        {"a": "1"},
        {"a": True},
    ]
    assert len({config_hash(identity) for identity in different}) == len(different)


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, Path("x"), object()])
def test_a_configuration_that_is_no_json_is_refused(value):
    with pytest.raises(RecordError, match="cannot be named"):
        config_hash({"value": value})


def test_one_line_per_sample(folder):
    folder.append(samples("a", "b"))
    lines = (folder.path / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["a", "b"]
