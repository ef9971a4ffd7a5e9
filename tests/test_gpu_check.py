"""What only a GPU can show, run on a CPU with tiny shapes: the mechanics of every part, and what is said of a lack."""

from __future__ import annotations

import importlib.util
import json
import re
from typing import Any

import pytest
import torch

from benchmarks.gpu_check import build_parser, command, main
from benchmarks.gpu_check.agreement import Reading, agreement, read
from benchmarks.gpu_check.bench import SKIPPED, Bench, attempt, reason
from benchmarks.gpu_check.command import PARTS, Part, check
from benchmarks.gpu_check.compiled import measure_compiled
from benchmarks.gpu_check.cost import PAPER, measure_cost
from benchmarks.gpu_check.keeping import RESULTS_FILE, with_earlier
from benchmarks.gpu_check.kernels import measure_kernels
from benchmarks.gpu_check.placement import measure_placement
from benchmarks.gpu_check.precision import measure_precision, round_parameters
from benchmarks.gpu_check.quantised import measure_quantised
from benchmarks.gpu_check.table import as_markdown
from benchmarks.gpu_check.trained import TRAINED, trained
from scr import ConfigError

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = Bench(device=torch.device("cpu"), scale="tiny", rounds=1, tokens=4, pictures=2)
SAME = {"equal sources %": 100, "all sources equal %": 100, "same first token %": 100}


def measured(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if SKIPPED not in row]


def test_cost_of_batches_beside_the_paper():
    rows = measured(measure_cost(TINY))
    assert [(row["batch"], row["method"]) for row in rows] == [
        *((1, name) for name in ("vanilla", "scr", "scr_one_pass", "naive", "vcd", "purified")),
        *((16, name) for name in ("vanilla", "scr", "scr_one_pass", "vcd", "purified")),
    ]
    assert all(row["adds ms"] == 0 for row in rows if row["method"] == "vanilla")
    assert {row["method"]: row["the paper, A100, ms"] for row in rows if row["the paper, A100, ms"]} == PAPER
    one, many = (next(row for row in rows if row["batch"] == batch) for batch in (1, 16))
    assert many["peak beyond weights GB"] > 10 * one["peak beyond weights GB"]
    assert all(row["prefill ms"] > 0 and row["ms per later token"] > 0 for row in rows)


def test_kernels_that_are_here_plan_alike_and_the_others_say_why_not():
    rows = {row["kernel"]: row for row in measure_kernels(TINY)}
    for name in ("eager", "sdpa", "sdpa: math"):
        assert rows[name].items() >= SAME.items()
        assert rows[name]["largest difference of logits"] < 1e-5
        assert rows[name]["prefill ms"] > 0
    for name in ("flash_attention_2", "flash_attention_3", "flex_attention"):
        assert "expected a GPU" in rows[name][SKIPPED]
    assert "no such kernel" in rows["sdpa: cudnn"][SKIPPED]


def test_lower_precision_moves_logits_and_bfloat16_more():
    rows = measured(measure_precision(TINY))
    assert len(rows) == 8
    moved = {(row["model"], row["map"], row["format"]): row["largest difference of logits"] for row in rows}
    for model, way, form in moved:
        if form == "float16":
            assert 0 < moved[model, way, form] < moved[model, way, "bfloat16"]
    assert all(0 < row["equal sources %"] <= 100 and row["rank correlation of maps"] > 0.9 for row in rows)
    assert {row["images"] for row in rows if row["model"].startswith(TRAINED)} == {TINY.pictures}


def test_a_split_model_says_the_same():
    (row,) = measure_placement(TINY)
    assert row.items() >= {**SAME, "halves": "cpu and disk", "same 4 tokens %": 100}.items()
    assert row["modules in the other"] > 3
    assert row["largest difference of logits"] == 0


def test_compiled_decoding_says_the_same_by_one_graph():
    rows = measure_compiled(TINY)
    assert [row["graphs"] for row in rows] == [0, 0, 1] * 3
    assert all(row["more while timed"] == 0 and row["same tokens %"] == 100 for row in rows)


def test_quantised_weights_are_a_gpus():
    lacking = "expected a GPU" if importlib.util.find_spec("bitsandbytes") else "pip install bitsandbytes"
    assert all(lacking in row[SKIPPED] for row in measure_quantised(TINY))


def test_agreement_counts_sources_maps_and_tokens():
    model, inputs = trained(TINY)
    reference = read(model, inputs, num_sources=4)
    assert reference.milliseconds is None
    assert (
        agreement(reference, reference).items()
        >= {**SAME, "images": 2, "rank correlation of maps": pytest.approx(1)}.items()
    )

    class Other:
        """A trace of which one source is another, and whose map is turned over."""

        sources = torch.cat([reference.traces[0].sources[:3], torch.tensor([143])])
        attention = -reference.traces[0].attention

    shifted = Reading(reference.logits.roll(1, dims=1), [Other, reference.traces[1]], None)
    assert (
        agreement(shifted, reference).items()
        >= {
            "equal sources %": 87.5,
            "all sources equal %": 50,
            "rank correlation of maps": pytest.approx(0, abs=1e-9),
            "same first token %": 0,
        }.items()
    )


def test_buffers_are_not_rounded():
    module = torch.nn.BatchNorm1d(2)
    round_parameters(module, torch.float16)
    assert (module.weight.dtype, module.running_mean.dtype) == (torch.float16, torch.float32)


def test_reasons_are_a_line():
    full = torch.OutOfMemoryError("CUDA out of memory.\nTried " + "x" * 900)
    assert reason(full).startswith("memory is full: CUDA out of memory. Tried x")
    assert len(reason(full)) < 320

    def refuse() -> dict[str, Any]:
        raise ConfigError("no: got 1")

    assert attempt({"kernel": "a"}, refuse) == {"kernel": "a", SKIPPED: "no: got 1"}
    with pytest.raises(ZeroDivisionError):
        attempt({"kernel": "a"}, lambda: {"x": 1 / 0})


def test_a_part_that_fails_or_comes_too_late_leaves_the_others(tmp_path, monkeypatch, capsys):
    for name, title in (("good", "Good"), ("bad", "Bad"), ("late", "Late")):
        monkeypatch.setitem(PARTS, name, Part(title, f"{name}.measure"))

    class Module:
        """Both modules: one gives a row, the other fails."""

        @staticmethod
        def measure(bench: Bench) -> list[dict[str, Any]]:
            return [{"kernel": "a|b", "ms": 1234.5, "share": 0.12345, "none": None}, {"kernel": "c", SKIPPED: "lost"}]

    class Broken:
        """Raises what no table of reasons knows."""

        @staticmethod
        def measure(bench: Bench) -> list[dict[str, Any]]:
            raise ZeroDivisionError("by\nzero")

    modules = {"good": Module, "bad": Broken}
    monkeypatch.setattr(command.importlib, "import_module", lambda name: modules[name.rpartition(".")[2]])
    times = iter([0.0, 0.0, 5.0, 5.0, 9.0, 99.0])
    kept: list[int] = []
    found = check(
        TINY,
        ["good", "bad", "late"],
        seconds=60,
        keep=lambda so_far: kept.append(len(so_far["parts"])),
        clock=lambda: next(times),
    )
    good, bad, late = found["parts"]
    assert kept == [0, 1, 2, 3]
    assert good["seconds"] == 5
    assert bad["failed"] == "ZeroDivisionError: by zero"
    assert "Traceback" in bad["traceback"]
    assert late["skipped"] == "the time was up: 99 seconds of 60 had passed"
    page = as_markdown(json.loads(json.dumps(found)))
    assert "| kernel | ms | share | none |\n| --- | --: | --: | --: |\n| a\\|b | 1,234 | 0.123 |  |" in page
    assert "* c: skipped, lost" in page
    assert "## Bad\n\nFailed: ZeroDivisionError: by zero" in page
    assert "## Late\n\nSkipped: the time was up" in page

    arguments = ["--output", str(tmp_path / "out"), "--scale", "tiny", "--device", "cpu", "--parts"]
    assert main([*arguments, "good"]) == 0
    path = tmp_path / "out" / RESULTS_FILE
    assert json.loads(path.read_text())["parts"][0]["part"] == "good"
    assert main([*arguments, "bad"]) == 1
    assert [part["part"] for part in json.loads(path.read_text())["parts"]] == ["good", "bad"]
    page = (tmp_path / "out" / "gpu_check.md").read_text()
    assert page in capsys.readouterr().out
    assert "## Good" in page
    # Another scale: refused before anything is measured, and what is there stays.
    before, modules["good"] = path.read_bytes(), Broken
    arguments[arguments.index("tiny")] = "small"
    assert main([*arguments, "good"]) == 2
    assert re.search(
        "results of another machine.*got {'model': .*tiny.*expected {'model': .*small", capsys.readouterr().err
    )
    assert path.read_bytes() == before


def test_parts_of_an_earlier_run_stay_where_machine_and_model_are_the_same(tmp_path):
    machine = {"gpu": "H100", "threads": 1, "load": 0.5, "created": "monday"}

    def found(parts, **fields):
        return {"machine": {**machine, **fields}, "machine_line": "H100", "model_line": "models", "parts": parts}

    good, other = {"part": "cost", "rows": [1]}, {"part": "kernels", "failed": "no"}
    assert with_earlier(tmp_path, found([good])) == found([good])
    path = tmp_path / RESULTS_FILE
    path.write_text(json.dumps(found([good, other])))
    again = {"part": "kernels", "rows": [2]}
    assert with_earlier(tmp_path, found([again], load=3.0, created="friday"))["parts"] == [good, again]
    late = [{"part": "cost", "skipped": "the time was up"}, {"part": "kernels", "skipped": "the time was up"}]
    assert with_earlier(tmp_path, found(late))["parts"] == [good, late[1]]
    with pytest.raises(ConfigError, match=r"got \{'gpu': 'H100'\} in .*; expected \{'gpu': 'A100'\}"):
        with_earlier(tmp_path, found([again], gpu="A100"))
    path.write_text("[]")
    with pytest.raises(ConfigError, match="results of another form"):
        with_earlier(tmp_path, found([again]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts", "kernel"], "unknown part: got 'kernel'; expected one of ['cost', 'kernels', "),
        (["--shape", "lava"], "unknown shape: got 'lava'"),
        (["--scale", "huge"], "unknown scale: got 'huge'"),
        (["--device", "tpu9"], "unknown device: got 'tpu9'"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, tmp_path, capsys):
    assert main(["--output", str(tmp_path / "out"), *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {message}")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_help_names_every_part():
    assert all(name in build_parser().format_help() for name in PARTS)
