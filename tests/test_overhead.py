"""What SCR costs: the command end to end on tiny shapes, the naive two-pass against SCR, and the memory counter."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.overhead.command import build_parser, machine, machine_line, main
from benchmarks.overhead.measure import (
    Measurement,
    NaiveTwoPass,
    Patched,
    Vanilla,
    known_methods,
    measure_rounds,
    method_on,
    peak_bytes,
)
from benchmarks.overhead.models import SHAPES, Workload, build_workload
from benchmarks.overhead.table import Spread, rows, spread

CPU = torch.device("cpu")
COMPARED = ["scr", "naive", "purified", "purified_processor", "vcd", "dola"]
TINY = ["--scale", "tiny", "--device", "cpu", "--threads", "1", "--rounds", "2", "--new-tokens", "4,1,2"]
RATIOS = ["prefill", "until_2", "until_4", "per_token", "diagnostic", "diagnostic_of_prefill"]
COUNTED = ["operations", "peak_memory", "peak_beyond_weights"]

pytestmark = pytest.mark.usefixtures("one_thread")


def strengthened(shape: str, batch: int = 2) -> Workload:
    """A tiny workload whose attention is far from uniform, so that edits show."""
    workload = build_workload(SHAPES[shape], "tiny", CPU, batch)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in workload.model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.15, generator=generator)
    return workload


def logits(method: Vanilla | Patched | NaiveTwoPass, beams: int = 1) -> torch.Tensor:
    """Of every new token."""
    with method.applied():
        found = method.generate(
            max_new_tokens=3, num_beams=beams, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    return torch.stack(found.logits)


@pytest.mark.parametrize(
    ("form", "shapes"), [([], list(SHAPES)), (["--markdown"], ["llava"])], ids=["text", "markdown"]
)
def test_the_command_prints_every_ratio(
    form: list[str], shapes: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "overhead.json"
    threads = torch.get_num_threads()
    assert main([*TINY, *form, "--method", ",".join(COMPARED), "--shape", ",".join(shapes), "--json", str(file)]) == 0
    assert torch.get_num_threads() == threads
    out = capsys.readouterr().out
    found = json.loads(file.read_text())
    assert [one["shape"] for one in found["shapes"]] == shapes
    assert found["skipped"] == {}
    assert found["machine"]["threads"] == 1
    for record in found["shapes"]:
        assert list(record["ratios"]) == [*RATIOS, *COUNTED]
        assert [len(one) for one in record["rounds"]] == [1 + len(COMPARED)] * 2
        for row in rows(record):
            assert row.label in out
            assert list(row.ratios) == (["scr", "naive"] if row.name.startswith("diagnostic") else list(COMPARED))
            for method in row.ratios:
                assert str(row.ratios[method]) in out
                assert record["ratios"][row.name][method] == list(row.ratios[method])
                assert row.ratios[method].low <= row.ratios[method].median <= row.ratios[method].high
        # Times of tiny models say little, but what is counted is the same on any machine.
        arithmetic = {name: ratio[0] for name, ratio in record["ratios"]["operations"].items()}
        assert arithmetic["scr"] < 1.07 + record["blocks_needed"] / record["blocks"]
        assert arithmetic["naive"] > 2
        # A second vision pass and a second prefill; the contrast of layers has one product with the head for each.
        assert 1.99 < arithmetic["purified"] < 2.01
        assert arithmetic["purified"] == arithmetic["purified_processor"] == arithmetic["vcd"]
        assert 1 < arithmetic["dola"] < 1.1
        memory = record["peak_bytes"]
        assert memory["scr"] < 1.05 * memory["vanilla"] < memory["naive"]


def test_beams_and_batch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--num-beams", "2", "--batch", "2", "--method", "scr,purified"]) == 0
    out = capsys.readouterr().out
    assert "batch 2, beams 2" in out
    assert "naive ×" not in out


def test_time_of_the_process_is_another_clock(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--method", "scr,naive", "--cpu-time"]) == 0
    out = capsys.readouterr().out
    assert "2 rounds, CPU time" in out
    assert "diagnostic" not in out.split("× is the ratio")[0], "passes are timed by the wall alone"
    workload = build_workload(SHAPES["llava"], "tiny", CPU)
    ticks = itertools.count(0.0, 2.0)
    (one,) = measure_rounds([method_on(workload, "vanilla")], rounds=1, tokens=3, seconds=lambda: next(ticks))
    assert one["vanilla"].token_ms == [2000.0, 4000.0, 6000.0]
    assert one["vanilla"].pass_ms is None


@pytest.mark.parametrize("shape", SHAPES)
def test_the_naive_two_pass_does_what_scr_does(shape: str) -> None:
    workload = strengthened(shape)
    plain, patched, naive = (logits(method_on(workload, name)) for name in ("vanilla", "scr", "naive"))
    assert (patched[0] - plain[0]).abs().max() > 0.05
    assert torch.allclose(naive, patched, atol=1e-4, rtol=0)
    assert torch.equal(logits(Vanilla(workload)), plain)


def test_the_naive_two_pass_under_beams() -> None:
    workload = strengthened("llava")
    assert torch.allclose(logits(NaiveTwoPass(workload), 2), logits(method_on(workload, "scr"), 2), atol=1e-4, rtol=0)


def test_rounds_take_turns_and_every_token_is_timed() -> None:
    workload = build_workload(SHAPES["llava"], "tiny", CPU)
    measured = list(
        measure_rounds([method_on(workload, name) for name in ("vanilla", "scr", "naive")], rounds=2, tokens=3)
    )
    assert [list(one) for one in measured] == [["vanilla", "scr", "naive"]] * 2
    for one in measured:
        for found in one.values():
            assert len(found.token_ms) == 3
            assert found.token_ms == sorted(found.token_ms)
            assert 0 < found.pass_ms < found.token_ms[0]


def test_time_per_token() -> None:
    assert Measurement([10.0, 12.0, 16.0], 5.0).per_token == 3.0
    assert math.isnan(Measurement([10.0], 5.0).per_token)


def test_workloads_repeat_and_leave_the_random_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (build_workload(SHAPES["llava"], "tiny", CPU) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first.inputs[name], second.inputs[name]) for name in first.inputs)
    assert all(map(torch.equal, first.model.parameters(), second.model.parameters()))
    assert first.weight_bytes >= 4 * first.model.num_parameters()


def test_the_table_of_shapes_is_what_it_stands_for() -> None:
    for shape in SHAPES.values():
        small, full = shape.sizes["small"], shape.sizes["full"]
        assert (small.text.blocks, small.grids) == (full.text.blocks, full.grids)
        assert small.text.heads * full.text.key_heads == full.text.heads * small.text.key_heads
        with torch.device("meta"):
            pixels = shape.pixels(full, 2)
        assert pixels["pixel_values"].numel() > 0
    assert SHAPES["llava"].sizes["small"].image_tokens == 576
    assert SHAPES["llava"].sizes["small"].text.blocks == 32


def test_live_bytes_are_exact() -> None:
    kept = torch.ones(1000)

    def run() -> torch.Tensor:
        first = torch.empty(1000)  # 4,000 bytes
        second = torch.empty(2000)  # 12,000, the peak
        view = second[:10].add_(1)  # nothing: no new storage
        kept.mul_(2)  # nothing: older than the count
        del first
        return view + torch.empty(100, dtype=torch.float64).sum()  # 8,000 + 800 + 8 + 40

    assert [peak_bytes(run, CPU) for _ in range(2)] == [12_000] * 2
    assert peak_bytes(lambda: None, CPU) == 0


def test_spread() -> None:
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == Spread(3.0, 2.0, 4.0)
    assert str(spread([1.0, 2.0, 3.0])) == "2.00 (1.50–2.50)"
    assert str(spread([1.5])) == "1.50"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--shape", "lava"],
            "unknown shape: got 'lava'; expected one of ['llava', 'qwen2_vl', 'internvl']. Did you mean",
        ),
        (["--scale", "huge"], "unknown scale: got 'huge'; expected one of ['auto', 'tiny', 'small', 'full']."),
        (["--device", "tpu9"], "unknown device: got 'tpu9'; expected auto, cpu, cuda or cuda:N."),
        (["--method", "scr,doula"], "unknown method: got 'doula'; expected one of ['naive', 'scr', "),
        (["--rounds", "0"], "argument --rounds: got '0'; expected 1 or more."),
        (["--new-tokens", "1,x"], "argument --new-tokens: got 'x'; expected 1 or more."),
    ],
)
def test_options_that_cannot_be_used(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_a_shape_without_a_family_is_skipped_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.overhead.models.list_families", lambda: ["llava"])
    assert main([*TINY, "--shape", "qwen2_vl"]) == 1
    assert "qwen2_vl: skipped, no family of this version patches model type 'qwen2_vl'" in capsys.readouterr().out


def test_the_machine_of_a_checkout_whose_state_git_does_not_tell() -> None:
    where = {**machine(CPU, 1), "commit": "0123456789"}
    assert machine_line({**where, "dirty": None}).endswith("; commit 0123456")
    assert machine_line({**where, "dirty": True}).endswith("; commit 0123456 and changes")


def test_defaults() -> None:
    options = build_parser().parse_args([])
    assert (options.shape, options.new_tokens, options.rounds) == ("llava", (1, 20), 3)
    assert options.method.split(",") == ["scr", "vcd"]


def test_every_method_of_the_table_is_measured_or_refused_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "overhead.json"
    quick = ["--scale", "tiny", "--device", "cpu", "--threads", "1", "--rounds", "1", "--new-tokens", "2"]
    assert main([*quick, "--method", "all", "--json", str(file)]) == 0
    out, (record,) = capsys.readouterr().out, json.loads(file.read_text())["shapes"]
    assert {*record["rounds"][0], *record["refused"]} == {*known_methods()}
    for method, reason in record["refused"].items():
        assert f"{method}: skipped, {reason}" in out
    measured = set(record["rounds"][0])
    assert {"vanilla", "naive", "scr", "purified", "purified_processor", "sid", "sid_processor"} <= measured
    for method in measured - {"vanilla"}:
        assert re.search(rf"^{method} +\d", out, re.MULTILINE)


@pytest.mark.parametrize("rounds", [0, 1])
def test_an_interrupt_prints_the_rounds_that_are_complete(
    rounds: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*args: Any, **options: Any) -> Iterator[Any]:
        for number, measured in enumerate(measure_rounds(*args, **options)):
            if number == rounds:
                raise KeyboardInterrupt
            yield measured

    monkeypatch.setattr("benchmarks.overhead.measure.measure_rounds", interrupted)
    file = tmp_path / "found.json"
    assert main([*TINY, "--method", "scr", "--json", str(file)]) == 130
    said = capsys.readouterr()
    assert "llava: round 1 of 2: scr" in said.err
    if rounds:
        assert "llava: interrupted after 1 of 2 rounds" in said.err
        assert "prefill" in said.out
        (shape,) = json.loads(file.read_text())["shapes"]
        assert (len(shape["rounds"]), shape["interrupted"]) == (1, True)
    else:
        assert said.err.splitlines()[-1] == "interrupted before a round was complete"
