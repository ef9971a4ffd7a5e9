"""`--diagnostics`: what is recorded beside the answers, that no answer depends on it, and what is refused."""

from __future__ import annotations

import dataclasses
import functools
import math
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from miniature import without_times, write_coco
from tiny_families import TINY
from torch.distributed import HashStore

import scr
from benchmarks.asking.answering import Answer, Answerer, Question
from benchmarks.asking.diagnostics import Diagnoser, rounded
from benchmarks.asking.models import load_model
from benchmarks.records import DIAGNOSTICS
from benchmarks.run import main
from benchmarks.running.outcomes import Outcome
from benchmarks.running.plan import Plan, RunConfig, build_plan
from benchmarks.running.ranks import Ranks, World
from benchmarks.running.runner import run, run_plan
from benchmarks.tasks.pope.task import asked_object

Configure = Callable[..., RunConfig]
pytestmark = pytest.mark.usefixtures("one_thread")
METHODS = ("none", "scr", "purified", "scr+purified")
ATTENTION = {"grids", "attention", "entropy", "entropy_normalized", "norm_ratio"}
EDITS = {"sources", "neighbors", "owners"}
CREDIT = {"grids", "layers", "credit", "credit_entropy_norms", "credit_entropy_gradients"}
CREDIT |= {"norm_credit_r", "norm_growth"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "coco")


@pytest.fixture
def configure(small_run: Configure) -> Configure:
    return functools.partial(small_run, batch_size=5, diagnostics=("entropy", "credit"))


def traces(outcome: Outcome) -> list[dict[str, Any]]:
    return [record.trace or {} for record in outcome.cell.folder.samples()]


def without_traces(outcome: Outcome) -> list[dict[str, Any]]:
    return [{**record, "trace": None} for record in without_times(outcome.cell.folder.samples())]


def test_what_is_recorded_and_that_no_answer_depends_on_it(configure: Configure, tmp_path: Path) -> None:
    settings = {"scr.keep_traces": 1, "scr.num_sources": 3}
    fields: dict[str, Any] = {"methods": METHODS, "limit": 2, "method_args": settings}
    bare = run(configure(diagnostics=(), output_dir=tmp_path / "bare", **fields))
    told = run(configure(**fields))
    for one, other in zip(bare, told, strict=True):
        assert one.cell.folder.digest == other.cell.folder.digest
        assert without_times(one.cell.folder.samples()) == without_traces(other)
        redistributes = one.cell.method not in ("none", "purified")
        asked = [record.target == "yes" for record in other.records]
        for trace, there in zip(traces(other), asked, strict=True):
            expected = ATTENTION | CREDIT | {"objects"} | ({"object"} if there else set())
            assert set(trace) == expected | (EDITS if redistributes else set())
            patches = sum(height * width for height, width in trace["grids"])
            assert len(trace["attention"]) == len(trace["credit"]) == patches
            limit = math.log(patches) + 1e-6
            for name in ("entropy", "credit_entropy_norms", "credit_entropy_gradients"):
                assert 0 < trace[name] <= limit
            assert trace["entropy_normalized"] == pytest.approx(trace["entropy"] / math.log(patches), rel=1e-4)
            assert len(trace["layers"]) == len(trace["norm_growth"]) == len(trace["norm_credit_r"])
            assert all(growth > 0 for growth in trace["norm_growth"])
            assert all(-1 <= r <= 1 for r in trace["norm_credit_r"])
            assert trace["objects"] == 4
            if there:
                assert trace["object"] == {"area": rounded(30 / 24**2), "border": rounded(2 / 24)}
            if redistributes:
                assert len(trace["neighbors"]) == len(trace["owners"])
                assert max(trace["owners"]) < len(trace["sources"])
            assert (trace["norm_ratio"] is None) == (not redistributes)
    none, with_scr, purified, both = map(traces, told)
    assert len(with_scr[0]["sources"]) == 3
    # The attention is that of the model without edits, whatever the method does; the credit is not.
    for plain, edited in zip(none, with_scr, strict=True):
        assert plain["attention"] == pytest.approx(edited["attention"], rel=1e-4)
        assert plain["credit"] != edited["credit"]
        assert plain["norm_growth"] != edited["norm_growth"]
    for unedited, contrasted in ((none, purified), (with_scr, both)):
        assert [one["norm_growth"] for one in unedited] == [one["norm_growth"] for one in contrasted]
    again = run(configure(**fields))
    assert all(one.from_store for one in again)


@pytest.mark.parametrize("names", [("entropy",), ("credit",)])
def test_each_alone(configure: Configure, names: tuple[str, ...]) -> None:
    for outcome in run(configure(methods=("scr",), diagnostics=names)):
        edits = EDITS if outcome.cell.method == "scr" else set()
        expected = (ATTENTION | edits if names == ("entropy",) else CREDIT) | {"objects"}
        for trace in traces(outcome):
            assert set(trace) - {"object"} == expected
            assert set(DIAGNOSTICS[name] for name in names) <= set(trace)


def test_the_trace_is_that_of_the_batch_as_it_was_answered(configure: Configure) -> None:
    """Sources by its own generate, and y the token that it said first."""
    plan = build_plan(configure(methods=("scr",)))
    outcome = run_plan(plan)[1]
    loaded = load_model(plan.source, dtype="float32", device="cpu")
    batch = next(iter(outcome.cell.work.batches()))
    inputs = Answerer(loaded).encode([Question(id=one.id, image=one.image, prompt=one.prompt) for one in batch])
    with scr.patch(loaded.model, "scr", **outcome.cell.config_given) as patched:
        model: Any = loaded.model
        new = model.generate(**inputs, max_new_tokens=1, do_sample=False)[:, -1]
        made = patched.traces
        credit = scr.diagnose(loaded.model, inputs, answers=new)
    for recorded, trace, one in zip(traces(outcome), made, credit, strict=False):
        assert recorded["sources"] == trace.sources.tolist()
        assert recorded["attention"] == rounded(trace.attention.tolist())
        assert recorded["credit"] == pytest.approx(rounded(one.to_dict()["credit"]), rel=1e-4)


def test_on_the_lab(tmp_path: Path) -> None:
    """The lab's model answers the same, to the last digit, and its values are sane."""

    def outcomes(names: tuple[str, ...]) -> list[Outcome]:
        return run(
            RunConfig(
                tasks=("pope_adversarial",),
                limit=1,
                batch_size=3,
                generation={"max_new_tokens": 4},
                output_dir=tmp_path / "-".join(names),
                diagnostics=names,
            )
        )

    for one, other in zip(outcomes(()), outcomes(("entropy", "credit")), strict=True):
        assert without_times(one.cell.folder.samples()) == without_traces(other)
        for trace, record in zip(traces(other), other.records, strict=True):
            assert trace["grids"] == [[12, 12]]
            assert max(trace["credit_entropy_gradients"], trace["entropy"]) <= math.log(144)
            assert ("object" in trace) == (record.target == "yes")


def test_a_run_goes_on_with_diagnostics(configure: Configure, tmp_path: Path) -> None:
    (whole,) = run(configure())
    lines = (whole.cell.folder.path / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (whole.cell.folder.path / "samples.jsonl").write_bytes(b"".join(lines[:7]) + lines[7][:50])
    expected = without_times([dataclasses.replace(record) for record in whole.records])
    (again,) = run(configure())
    assert len(again.timed) == 17
    assert without_times(again.cell.folder.samples()) == expected


def test_several_processes(configure: Configure, tmp_path: Path) -> None:
    """Here they are threads, each with a model of its own."""
    (alone,) = run(configure())
    store, found = HashStore(), [None, None]

    def plan() -> Plan:
        return build_plan(configure(output_dir=tmp_path / "two"))

    plans = [plan(), plan()]

    def work(rank: int) -> None:
        torch.set_num_threads(1)
        ranks = Ranks(World(rank, 2, rank, 2), store, 60.0)
        with ranks.telling():
            found[rank] = run_plan(plans[rank], ranks=ranks)  # type: ignore[call-overload]
        ranks.leave()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found[0]
    assert found[1] == []
    records = plans[0].cells[0].folder.samples()
    assert without_times(records) == without_times(alone.cell.folder.samples())


def test_records_without_diagnostics_are_refused(
    configure: Configure, checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(configure(diagnostics=("entropy",)))
    command = f"--method none --model {checkpoint} --data-dir {data} --tasks pope_random --limit 4 --batch-size 5"
    arguments = [*command.split(), "--gen-kwarg", "max_new_tokens=3", "--output-dir", str(tmp_path / "results")]
    capsys.readouterr()
    assert main([*arguments, "--diagnostics", "entropy"]) == 0
    assert "taken from" in capsys.readouterr().err
    assert main([*arguments, "--diagnostics", "entropy,credit"]) == 2
    said = capsys.readouterr().err
    assert "lack diagnostics: got 24 of 24 answers without 'credit'" in said
    assert "--overwrite" in said
    assert main([*arguments, "--diagnostics", "entropy,credit", "--overwrite"]) == 0
    assert main(arguments) == 0, "and who does not ask for them takes what is there"
    # Half a run without them is refused as well, before anything is answered.
    shutil.rmtree(tmp_path / "results")
    run(configure(diagnostics=(), limit=2))
    with pytest.raises(scr.ConfigError, match="got 12 of 12 answers without 'entropy'"):
        run(configure(methods=("scr",)))
    assert len(list((tmp_path / "results").rglob("samples.jsonl"))) == 1


def test_an_unknown_name(configure: Configure, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        scr.ConfigError, match=r"unknown diagnostics: got 'entropie'; expected one of entropy, credit\."
    ):
        configure(diagnostics=("entropie",))
    assert main(["--diagnostics", "credits"]) == 2
    assert "credit" in capsys.readouterr().err


def test_questions_without_an_image_have_no_trace(configure: Configure) -> None:
    plan = build_plan(configure(methods=("scr",), limit=3))
    cells = []
    for cell in plan.cells:
        samples = [
            dataclasses.replace(one, image=None, unit=one.unit_name) if number % 3 == 1 else one
            for number, one in enumerate(cell.work.samples)
        ]
        cells.append(dataclasses.replace(cell, work=dataclasses.replace(cell.work, samples=samples)))
    plan = dataclasses.replace(plan, cells=tuple(cells))
    for outcome in run_plan(plan):
        for number, record in enumerate(outcome.records):
            assert (record.trace is None) == (number % 3 == 1)
        assert len({str((record.trace or {}).get("attention")) for record in outcome.records}) > 4
    assert all(one.from_store for one in run_plan(plan)), "they lack nothing"


def test_a_backward_pass_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def diagnose(*args: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("80 GiB")

    monkeypatch.setattr(scr, "diagnose", diagnose)
    answerer: Any = type("Fake", (), {"encode": lambda self, questions: {}})()
    loaded: Any = type("Fake", (), {"model": None})()
    diagnoser = Diagnoser(("credit",), loaded, answerer, [])
    question = Question(id="1", image=Path("a.png"), prompt="?")
    answer = Answer(text="Yes", margin=None, new_tokens=0, prefill_ms=1, decode_ms=1)
    sample: Any = type("Fake", (), {"facts": {}})()
    with pytest.raises(MemoryError, match=r"batch of 1 .*80 GiB.*Lower --batch-size"):
        diagnoser.traces([sample], [question], [answer])


def test_the_object_that_is_asked_about() -> None:
    assert asked_object("Is there a dining table in the image?") == "dining table"
    assert asked_object("Is there an orange in the imange?") == "orange"
    assert asked_object("What is this?") is None


def test_rounding() -> None:
    assert rounded({"a": [1 / 3, 2], "b": None, "c": 123456789.0, "d": True}) == {
        "a": [0.333333, 2],
        "b": None,
        "c": 123457000.0,
        "d": True,
    }


@pytest.mark.parametrize("name", ["llava", "llava_next", "internvl", "idefics3", "qwen2_vl"])
def test_a_trace_says_which_of_several_grids_is_the_whole_picture(name: str) -> None:
    tiny: Any = TINY[name](layers=4)
    prompt = tiny.prompt([("USER : <image> is there a dog", [1])])
    ((_, grids),) = prompt.layout.values()
    loaded: Any = SimpleNamespace(model=tiny.model)
    answerer: Any = SimpleNamespace(encode=lambda questions: prompt.inputs)
    sample: Any = SimpleNamespace(facts={"objects": 2})
    question = Question(id="1", image=Path("1.jpg"), prompt="")
    answer = Answer(text="", margin=None, new_tokens=0, prefill_ms=0, decode_ms=0)
    (trace,) = Diagnoser(("entropy",), loaded, answerer, []).traces([sample], [question], [answer])
    assert trace is not None
    assert [tuple(grid) for grid in trace["grids"]] == grids
    if len(grids) == 1:
        assert "whole" not in trace
    else:
        assert trace["whole"] == {"llava_next": 0, "internvl": len(grids) - 1, "idefics3": len(grids) - 1}[name]
    assert trace["objects"] == 2
