"""Sweeps: which configurations are run, in which records, what is printed, and what is refused before anything runs."""

from __future__ import annotations

import argparse
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from miniature import write_coco

from benchmarks.printing.sweep_table import print_sweep, sweep_rows
from benchmarks.running.plan import RunConfig
from benchmarks.running.runner import run
from benchmarks.stats import holm
from benchmarks.store import find_runs
from benchmarks.studies.sweeps import Factor, build_sweep, run_sweep
from benchmarks.sweep import factor, main

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "coco")


@pytest.fixture(scope="module")
def arguments(checkpoint: Path, coco: Path) -> list[str]:
    """A small sweep without its factors and its output folder."""
    small = ["--tasks", "pope_random", "--limit", "2", "--batch-size", "12", "--gen-kwarg", "max_new_tokens=2"]
    return ["--model", str(checkpoint), "--data-dir", str(coco), *small]


@pytest.fixture(scope="module")
def small(checkpoint: Path, coco: Path) -> RunConfig:
    """The same as a configuration."""
    return RunConfig(
        model=str(checkpoint), data_dir=coco, tasks=("pope_random",), limit=2, batch_size=12,
        generation={"max_new_tokens": 2},
    )  # fmt: skip


def configurations(root: Path, method: str = "scr") -> list[dict]:
    records = [folder.read_run() for folder in find_runs(root)]
    assert all(record is not None and record.status == "finished" for record in records)
    return [record.config for record in records if record is not None and record.method == method]


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("scale=1.0,1.05,1.5", "scale", (1.0, 1.05, 1.5)),
        ("num_sources=4, 8,8", "num_sources", (4, 8)),
        ("layers=[0,4],[0,8],null", "layers", ([0, 4], [0, 8], None)),
        ("selection=top_k,greedy", "selection", ("top_k", "greedy")),
        ("include_border=true,false", "include_border", (True, False)),
        ('purified.strength={"name":"fixed","value":1},"a,b"', "purified.strength",
         ({"name": "fixed", "value": 1}, "a,b")),
        ('strength="say \\",\\"",1', "strength", ('say ","', 1)),
    ],
)  # fmt: skip
def test_values_are_json_with_commas_between(text: str, name: str, values: tuple) -> None:
    assert factor(text) == Factor(name, values)


@pytest.mark.parametrize("text", ["scale", "scale=", "=1", "scale=1,,2", "scale=1,"])
def test_what_is_no_factor(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="got"):
        factor(text)


def test_a_sweep_shares_records_with_runs(
    arguments: list[str], small: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    root = tmp_path / "results"
    _, by_hand = run(RunConfig(**{**vars(small), "output_dir": root, "method_args": {"num_sources": 4, "scale": 1.5}}))
    command = [*arguments, "--output-dir", str(root), "--method-arg", "num_sources=4"]
    command += ["--vary", "scale=1.0,1.5,1.10", "--vary", "selection=greedy"]
    assert main([*command, "--dry-run"]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if line.startswith("pope_random")]
    assert [(" ".join(row[1:-3]), row[-1]) for row in rows] == [
        ("none", "12"), ("scr (base)", "0"), ("scale=1.0", "0"), ("scale=1.5", "12"), ("selection=greedy", "0"),
    ]  # fmt: skip
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert err.count("taken from") == 2
    assert err.count("loading") == 1, "once, not once per configuration"
    found = configurations(root)
    assert sorted((one["scale"], one["selection"]) for one in found) == [
        (1.0, "top_k"), (1.1, "greedy"), (1.1, "top_k"), (1.5, "top_k"),
    ]  # fmt: skip
    assert {one["num_sources"] for one in found} == {4}
    commands = {folder.read_run().command.split(" --")[0] for folder in find_runs(root)}
    assert "python -m benchmarks.sweep" in commands
    assert by_hand.cell.folder.read_run().config in found
    lines = out.splitlines()
    assert max(map(len, lines[: lines.index(f"records: {root}/")])) <= 100
    assert "\x1b" not in out
    for text in (
        "pope_random · scale · 12 samples on 2 images", "pope_random · selection · ", "scale=1.1 (base)",
        "selection=top_k (base)", "selection=greedy", "accuracy", "HR", "AUC", "changed", "− none", "− base",
        "survive Holm's correction over all 4 rows", "survive Holm's correction over all 3 rows",
    ):  # fmt: skip
        assert text in out, text
    # Once more: all is there, no model is needed, and the numbers are the same.
    monkeypatch.setattr("benchmarks.running.answers.load_model", None)
    assert main(command) == 0
    assert capsys.readouterr().out == out


def test_a_baseline_that_was_computed_otherwise_is_named(small: RunConfig, tmp_path: Path) -> None:
    run(replace(small, methods=("none",), batch_size=6, output_dir=tmp_path))
    sweep = build_sweep(replace(small, output_dir=tmp_path), [Factor("scale", (1.0,))])
    printed = io.StringIO()
    print_sweep(sweep, run_sweep(sweep), printed)
    told = [line.strip() for line in printed.getvalue().splitlines() if "not computed as" in line]
    assert told == [f"{row}, not computed as none: batches of 12 against 6 (a near-tie can flip)"
                    for row in ("scr", "scale=1.0")]  # fmt: skip


def test_the_cross_has_every_combination(small: RunConfig, tmp_path: Path) -> None:
    config = RunConfig(**{**vars(small), "output_dir": tmp_path})
    factors = [Factor("scale", (1.1, 3.0)), Factor("radius", (1, 2))]
    sweep = build_sweep(config, factors, cross=True)
    assert not find_runs(tmp_path)
    (settings,) = sweep.tables.values()
    assert [one.fields for one in settings] == [
        {"scale": scale, "radius": radius} for scale in (1.1, 3.0) for radius in (1, 2)
    ]
    outcomes = run_sweep(sweep)
    assert len(outcomes) == 1 + 4, "the base is one of the combinations"
    assert sorted((one["scale"], one["radius"]) for one in configurations(tmp_path)) == [
        (1.1, 1), (1.1, 2), (3.0, 1), (3.0, 2),
    ]  # fmt: skip
    rows = sweep_rows(sweep, outcomes)
    assert [row.is_base for row in rows.values()] == [True, False, False, False]
    assert [row.p_none for row in rows.values()] == holm([row.to_none.mcnemar_p for row in rows.values()])
    others = [row for row in rows.values() if row.to_base is not None]
    assert [row.p_base for row in others] == holm([row.to_base.mcnemar_p for row in others])
    none, base, other = outcomes[0], outcomes[1], outcomes[2]
    row = rows["pope_random", other.cell.folder.digest]
    compare = none.cell.work.task.compare
    for found, reference in ((row.to_none, none), (row.to_base, base)):
        assert found.differences == compare(reference.records, other.records).differences
    file = io.StringIO()
    print_sweep(sweep, outcomes, file)
    assert "pope_random · scale × radius · " in file.getvalue()
    assert "scale=1.1, radius=1 (base)" in file.getvalue()


def test_a_part_of_a_combination(small: RunConfig, tmp_path: Path) -> None:
    config = RunConfig(**{**vars(small), "methods": ("scr+purified",), "output_dir": tmp_path})
    sweep = build_sweep(config, [Factor("purified.contrast", (60.0,))])
    outcomes = run_sweep(sweep)
    found = configurations(tmp_path, "scr+purified")
    assert sorted(one["purified"]["strength"]["contrast"] for one in found) == [0.6, 60.0]
    assert [one.cell.row for one in outcomes] == ["none", "scr+purified", "purified.contrast=60.0"]
    file = io.StringIO()
    print_sweep(sweep, outcomes, file)
    assert "purified.contrast=0.6 (base)" in " ".join(file.getvalue().split())
    assert "base purified: " in file.getvalue()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--vary", "scal=1.1"], "unknown field of SCRConfig.*Did you mean 'scale'?"),
        (["--vary", "scale=1.1,0.5"], "scale"),
        (["--vary", "layers=[0,1],[0,99]"], "layers leaves the model"),
        (["--vary", "connectivity=4,5"], "connectivity"),
        (["--vary", "purified.contrast=1"], "setting of a method that is not run: got 'purified.contrast'"),
        (["--vary", "contrast=1", "--method", "scr+purified"], "unknown field of SCRConfig"),
        (["--vary", "scale=1.1", "--vary", "scale=1.2"], "a factor twice: got 'scale'"),
        (["--vary", "scale=1.1", "--method-arg", "scr.scale=2"], "a factor without effect: got 'scale' beside"),
        (["--vary", "scale=1.1", "--method", "none"], "nothing to vary: got method 'none'"),
        (["--vary", "scale=1.1", "--method", "scr,vcd"], "nothing to vary: got method 'scr,vcd'"),
        (["--vary", "scale=1.1", "--method", "scrr"], "unknown method: got 'scrr'.*Did you mean 'scr'?"),
        (["--vary", "scale=1.1", "--tasks", "popee"], "unknown task"),
        (["--vary", "scale=1.1", "--prompt-variant", "oneword"], "unknown prompt variant"),
        (["--vary", "scale"], "--vary: got 'scale'; expected FIELD=VALUE,VALUE"),
        ([], "the following arguments are required: --vary"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(
    extra: list[str], message: str, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("benchmarks.running.answers.load_model", None)
    assert main([*arguments, "--output-dir", str(tmp_path / "results"), *extra]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"error: .*{message}.*\n", err), err
    assert not (tmp_path / "results").exists()


def test_one_process_alone(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*arguments, "--vary", "scale=1.2"]) == 2
    assert "another number of processes than expected: got 2; expected 1" in capsys.readouterr().err
