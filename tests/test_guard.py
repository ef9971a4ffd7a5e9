"""What is left of an error at the top of a command: one line, a status from one table, a log where a line is short."""

from __future__ import annotations

import errno
import importlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from benchmarks.records import RecordError
from benchmarks.running.outcomes import RunFailedError
from scr import ConfigError
from scr.command.guard import ERRORS, guarded
from scr.command.table import COMMANDS

ROOT = Path(__file__).parent.parent


def test_every_row_of_the_table_is_an_exception():
    for name in ERRORS:
        module, _, exception = name.rpartition(".")
        assert issubclass(getattr(importlib.import_module(module), exception), Exception), name


def raising(error):
    def run():
        raise error

    return run


def deep():
    return deep()


def no_room():
    return bytes(2**62)


@pytest.mark.parametrize(
    ("run", "status", "said", "logged"),
    [
        (raising(ConfigError("bad\nvalue")), 2, "bad value", False),
        (raising(RecordError("torn")), 2, "torn", False),
        (raising(RunFailedError("chair failed")), 1, "chair failed", False),
        (raising(OSError(errno.ENOSPC, "No space left on device", "x")), 1, "No space left on device: 'x'", True),
        (no_room, 1, "memory is full: got MemoryError", True),
        (deep, 1, "nested too deeply: got RecursionError: maximum recursion depth", True),
        (raising(torch.OutOfMemoryError("CUDA out of memory. Tried\nto")), 1, "memory is full: got OutOfMem", True),
        (raising(ModuleNotFoundError("No module named 'peft'")), 1, "a package is missing: got Module", True),
        (raising(ValueError("what\x1b is it?")), 1, "a fault of the program: got ValueError: what", True),
        (raising(ValueError("y" * 100_000)), 1, "a fault of the program", True),
        (raising(AssertionError()), 1, "a fault of the program: got AssertionError;", True),
        (raising(ConfigError()), 2, "ConfigError", True),
    ],
)
def test_what_is_left_becomes_one_line(run, status, said, logged, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert guarded(run) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"error: .*\n", err), err
    assert said in err
    assert len(err) < 700
    assert [str(path) in err for path in tmp_path.iterdir()] == [True] * logged
    for path in tmp_path.iterdir():
        assert "Traceback (most recent call last)" in path.read_text()


def test_without_a_place_for_the_log(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert guarded(raising(ValueError("x"))) == 1
    assert re.fullmatch(r"error: a fault .* No log: No such file or directory.\n", capsys.readouterr().err)


def test_statuses_and_interrupts(capsys):
    assert [guarded(lambda value=value: value) for value in (None, 0, 3)] == [0, 0, 3]
    assert [guarded(raising(SystemExit(code))) for code in (None, 0, 2)] == [0, 0, 2]
    assert guarded(raising(KeyboardInterrupt()), "it goes on from here") == 130
    assert capsys.readouterr().err == "it goes on from here\n"


# What each command does first, in its own module or another: interrupted there, or out of memory.
BEGUN = {
    "analysis.entropy": (["x"], "analysis.command.load_results"),
    "analysis.figures": (["x"], "analysis.command.load_results"),
    "analysis.marks": (["x", "y"], "analysis.marks.read_marked"),
    "analysis.report": (["x"], "analysis.command.load_results"),
    "benchmarks.calibrate": (["yes-shift", "--method", "scr"], "benchmarks.studies.calibration.yes_shift"),
    "benchmarks.compare": ([], "benchmarks.asking.models.find_model"),
    "benchmarks.doubts": ([], "benchmarks.studies.doubts.describe_split"),
    "benchmarks.gpu_check": (["--output", "x", "--device", "cpu"], "benchmarks.overhead.command.machine"),
    "benchmarks.lab.adapt": (["seed"], "benchmarks.lab.adapt.start_anew"),
    "benchmarks.lab.cheaper_maps": ([], "benchmarks.lab.cheaper_maps.compare_maps"),
    "benchmarks.lab.comparison": ([], "benchmarks.lab.comparison.compare_methods"),
    "benchmarks.lab.evaluate": ([], "benchmarks.lab.checkpoint_folder"),
    "benchmarks.lab.image_keep": ([], "benchmarks.lab.image_keep.read_grid"),
    "benchmarks.lab.only_below": ([], "benchmarks.lab.only_below.measure_saving"),
    "benchmarks.lab.prompts": (["--output", "prompts.txt"], "benchmarks.lab.prompts.all_prompts"),
    "benchmarks.lab.smol": (["fetch"], "benchmarks.lab.smol.command.fetch"),
    "benchmarks.lab.train": (["llava"], "benchmarks.lab.train.start_anew"),
    "benchmarks.lab.tune": ([], "benchmarks.lab.tune.tune"),
    "benchmarks.overhead": ([], "benchmarks.overhead.command.machine"),
    "benchmarks.protocol": (["list"], "benchmarks.protocol.command.list_protocols"),
    "benchmarks.refusal_data": (["--data-dir", "x", "--output", "y"], "benchmarks.tasks.coco.CocoData.open"),
    "benchmarks.results": (["list", "."], "benchmarks.studies.stored.find_runs"),
    "benchmarks.run": ([], "benchmarks.running.plan.build_plan"),
    "benchmarks.score": (["pope", "--questions", "q", "--answers", "a"], "benchmarks.score.load_scorer"),
    "benchmarks.sweep": (["--vary", "scale=1.1"], "benchmarks.studies.sweeps.build_plan"),
    "scr.demo": (["--port", "0"], "scr.checkpoints.chosen.load_chosen"),
    "scr.describing.command": (["x"], "scr.describing.command.find_photos"),
    "scr.onepass": (
        ["train", "--model", "m", "--images", "i", "--prompts", "p", "--output", "o"],
        "scr.onepass.pairs.find_images",
    ),
    "scr.publish": (["vcd", "--output", "o"], "scr.publish.travelling.published"),
    "scr.adapters.train": (["seed", "--model", "m", "--data", "d", "--output", "o"], "scr.adapters.recipe.load_recipe"),
}


@pytest.mark.parametrize("module", sorted({one.module for one in COMMANDS.values()}))
@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, 130), (MemoryError, 1), (KeyError, 1)])
def test_every_command_is_guarded(module, error, status, tmp_path, monkeypatch, capsys):
    arguments, first = BEGUN[module]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    main = importlib.import_module(module).main

    def begin(*_, **__):
        raise error

    if module == "benchmarks.score":  # the first call builds the parser
        calls = iter((importlib.import_module("benchmarks.tasks").load_scorer, begin))
        monkeypatch.setattr(first, lambda name: next(calls)(name))
    else:
        monkeypatch.setattr(first, begin)
    assert main(arguments) == status
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1, err
    assert err.startswith("interrupted" if status == 130 else "error: ")


def test_an_interrupt_inside_an_exec_ends_with_the_status_too(tmp_path):
    """As one while a dataclass is made, on import; `python -m` would end by the signal."""
    code = (
        "import sys; from scr.command.guard import guarded; sys.exit(guarded(lambda: exec('raise KeyboardInterrupt')))"
    )
    (tmp_path / "begun.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    begun = [sys.executable, "-m", "begun"]
    done = subprocess.run(begun, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


@pytest.mark.slow
def test_a_real_interrupt_of_a_training_is_one_line(tmp_path):
    command = ["lab", "train", "llava", "--work", str(tmp_path / "work"), "--output", str(tmp_path / "output")]
    process = subprocess.Popen([sys.executable, "-m", "scr", *command], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (tmp_path / "work").exists():
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err.splitlines()[-1][:11]) == (130, "interrupted"), err
    assert "Traceback" not in err


def test_a_reader_that_has_seen_enough(tmp_path):
    done = subprocess.run(
        f"{sys.executable} -m scr bench --list tasks | head -c 1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
