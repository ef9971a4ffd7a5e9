"""Declared protocols: what they declare, that they run as declared, and what `check` and `render` make of a folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from miniature import write_coco
from synthetic_results import questions, record, write
from tiny_checkpoints import WRITERS, write_refusal

import scr
from benchmarks.protocol import main
from benchmarks.protocol.anchors import compare_baseline
from benchmarks.protocol.declaration import (
    Anchor,
    Part,
    Protocol,
    Published,
    Row,
    get_protocol,
    list_protocols,
    rows_of,
)
from benchmarks.protocol.examine import Examination, Measured, examine
from benchmarks.protocol.hand_in import MANIFEST_FILE, TABLE_FILE, hand_in
from benchmarks.protocol.running import Machine, plan_parts, run_parts, stamp_of
from benchmarks.protocol.stamp import STAMP_FILE, Stamp, declared_by, read_stamp, write_stamp
from benchmarks.protocol.table import as_markdown, print_examination, remarks, verdicts
from benchmarks.running.plan import GREEDY_ROW
from benchmarks.running.rescoring import rescore
from benchmarks.store import find_runs
from benchmarks.tasks import expand_tasks, load_task

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*image_processor_class"),
]
NAMES = ("llava15-pope-chair", "qwen25vl", "smolvlm-refusal")


def test_the_protocols_are_these() -> None:
    assert tuple(list_protocols()) == NAMES == tuple(WRITERS)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_protocol_declares_holds_together(name: str, test_data: Path) -> None:
    protocol = get_protocol(name)
    assert (protocol.name, protocol.rehearsal) == (name, False)
    assert bool(protocol.anchors) != bool(protocol.without_anchors)
    for anchor in protocol.anchors:
        part = protocol.part(anchor.part)
        tasks = expand_tasks((anchor.tasks,))
        assert set(tasks) <= set(expand_tasks(part.tasks))
        assert all(anchor.metric in load_task(task).score([]).metrics for task in tasks)
        assert anchor.published
        assert all(one["source"] and one["protocol"] and 0 <= one["value"] <= 1 for one in anchor.published)
        assert protocol.causes_of(anchor.tasks)
    for path, digest in protocol.files.items():
        official = test_data / "pope" / "coco" / Path(path).name
        assert hashlib.sha256(official.read_bytes()).hexdigest() == digest
    # The greedy baseline that stands beside a sampled one is a row of another part.
    rows = [row for part in protocol.parts for row in rows_of(part)]
    for part in protocol.parts:
        if part.generation.get("do_sample"):
            greedy = {"do_sample": False, "max_new_tokens": part.generation["max_new_tokens"]}
            kept = {**greedy, **({"repetition_penalty": 1.0} if "repetition_penalty" in part.generation else {})}
            assert any(row.is_baseline and (row.prompt, row.generation) == (part.prompt, kept) for row in rows)


def test_llava_is_compared_with_controls_and_read_by_every_decoding() -> None:
    protocol = get_protocol("llava15-pope-chair")
    methods = {method for part in protocol.parts for method in part.methods}
    assert {"scr", "vcd", "purified", "opera", "pai", "uniform_smooth", "noise_control"} <= methods
    assert {task for part in protocol.parts for task in part.tasks} == {"pope", "chair"}
    assert {part.limit for part in protocol.parts} == {500}
    refusal = get_protocol("smolvlm-refusal").part("leading")
    assert (refusal.adapter, refusal.limit) == ("refusal", 500)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "coco", split="val2014")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Protocol → the flags that put tiny models of the declared classes in place of its own."""
    folder = tmp_path_factory.mktemp("models")
    flags = {name: ["--model", str(write(folder / name))] for name, write in WRITERS.items()}
    flags["smolvlm-refusal"] += ["--adapter", str(write_refusal(folder / "adapter"))]
    return flags


@pytest.mark.parametrize("name", NAMES)
def test_what_would_be_run_are_the_declared_rows(name: str, data: Path, models: Any, tmp_path: Path) -> None:
    protocol = get_protocol(name).rehearsed()
    flags = dict(zip(models[name][::2], models[name][1::2], strict=True))
    machine = Machine(dtype="float32", device="cpu", attn_implementation=None, batch_size=7)
    plans = plan_parts(
        protocol, data, tmp_path / "out", model=flags["--model"], adapter=flags.get("--adapter"), machine=machine
    )
    assert not (tmp_path / "out").exists()
    for part, plan in zip(protocol.parts, plans, strict=True):
        planned = [
            Row(
                part=part.name,
                task=cell.work.task.name,
                method=cell.method,
                adapted=cell.adapter is not None,
                prompt=plan.config.prompt,
                generation=cell.generation,
                limit=plan.config.limit or 0,
            )
            for cell in plan.cells
            if cell.row != GREEDY_ROW
        ]
        assert planned == rows_of(part)
        assert (plan.config.batch_size, plan.config.split, plan.config.seed) == (7, "val2014", 0)
        assert str(tmp_path) not in plan.config.command, "a folder that is handed in tells of no machine"
    stamp = stamp_of(protocol, plans)
    assert (stamp.adapter is not None) == (protocol.adapter is not None) == stamp.has_stand_in_adapter(protocol)
    assert stamp.shape == {"num_hidden_layers": 8, "hidden_size": 32}
    assert stamp.is_stand_in(protocol)
    assert not dataclasses.replace(stamp, model=protocol.model).is_stand_in(protocol)
    assert not dataclasses.replace(stamp, shape=dict(protocol.shape)).is_stand_in(protocol)


@pytest.fixture(scope="module")
def rehearsed(data: Path, models: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a rehearsal of the smallest protocol leaves."""
    folder = tmp_path_factory.mktemp("results") / "smol"
    command = ["run", "smolvlm-refusal", "--data-dir", str(data), "--output-dir", str(folder), "--rehearse"]
    assert main([*command, *models["smolvlm-refusal"]]) == 0
    return folder


def test_a_rehearsal_runs_every_row_and_is_checked_rendered_and_checked(
    rehearsed: Path, data: Path, models: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(rehearsed)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "A REHEARSAL" in out
    assert "A STAND-IN" in out
    assert "11 of 11 rows were run to their end" in out
    assert "The baseline is not compared" in out
    assert "6 of 6 yes/no rows, the first of them pope, pope_random, none: margins are read beside" in out
    handed = tmp_path / "handed"
    assert main(["render", str(rehearsed), "--output", str(handed)]) == 0
    assert "wrote 25 files" in capsys.readouterr().out
    assert {path.suffix for path in handed.rglob("*") if path.is_file()} == {".json", ".jsonl", ".md"}
    manifest = json.loads((handed / MANIFEST_FILE).read_text())
    assert {run.path.name for run in find_runs(handed)} == {run.path.name for run in find_runs(rehearsed)}
    assert set(manifest["files"]) == {
        str(path.relative_to(handed)) for path in handed.rglob("*") if path.is_file() and path.name != MANIFEST_FILE
    }
    runs = [run for run in (folder.read_run() for folder in find_runs(rehearsed)) if run is not None]
    assert manifest["data"] == {run.task: run.data_sha256 for run in runs}
    assert manifest["models"] == [f"{runs[0].model}@{runs[0].revision}"]
    assert manifest["adapters"] == sorted({run.adapter for run in runs if run.adapter})
    assert main(["check", str(handed)]) == 0
    # Once more: everything is there.
    command = ["run", "smolvlm-refusal", "--data-dir", str(data), "--output-dir", str(rehearsed), "--rehearse"]
    capsys.readouterr()
    assert main([*command, *models["smolvlm-refusal"], "--part", "leading-cot,chair"]) == 0
    assert capsys.readouterr().err.count("taken from") == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES[:2])
def test_the_others_run_likewise(name: str, data: Path, models: Any, tmp_path: Path) -> None:
    folder, handed = tmp_path / "out", tmp_path / "handed"
    command = ["run", name, "--data-dir", str(data), "--output-dir", str(folder), "--rehearse", *models[name]]
    assert main(command) == 0
    assert main(["check", str(folder)]) == 0
    assert main(["render", str(folder), "--output", str(handed)]) == 0
    assert main(["check", str(handed)]) == 0


def test_the_whole_protocol_on_a_small_data_set_is_said_to_be_incomplete(
    data: Path, models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not a rehearsal: the declared limit, which 8 pictures do not reach."""
    whole = get_protocol("smolvlm-refusal")
    short = dataclasses.replace(whole.part("leading-cot"), generation={"max_new_tokens": 2})
    protocol = dataclasses.replace(whole, parts=(short,), files={}, anchors=())
    monkeypatch.setattr("benchmarks.protocol.stamp.get_protocol", lambda name: protocol)
    plans = plan_parts(protocol, data, tmp_path, model=models["smolvlm-refusal"][1])
    assert [len(outcomes) for _, outcomes in run_parts(protocol, plans)] == [1]
    assert main(["check", str(tmp_path)]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "too few images: got 8; expected 500" in out
    assert "REHEARSAL" not in out


def copied(rehearsed: Path, tmp_path: Path) -> Path:
    shutil.copytree(rehearsed, tmp_path / "copy")
    return tmp_path / "copy"


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": 1}, "another seed: got 1; expected 0"),
        ({"limit": 3}, "another limit: got 3; expected 2"),
        ({"prompt": "defensive"}, r"is no row of smolvlm-refusal: got chair, none, prompt defensive.*a declared row"),
        ({"generation": {"do_sample": False, "max_new_tokens": 9}}, "is no row of smolvlm-refusal"),
        ({"config_given": {"scale": 2}}, r"another settings of the method: got \{'scale': 2\}; expected \{\}"),
        ({"task_version": 9}, "another version of the task: got 9; expected 1"),
        ({"rule": "wordnet"}, "another rule: got wordnet; expected chair"),
        ({"metrics": {"chair_s": 0.0}}, "another metrics: got"),
        ({"model": "another"}, r"rows of another model: got another; expected .*smolvlm-refusal, as stamped"),
        ({"revision": None}, r"rows of another revision: got None; expected sha256:"),
        ({"dtype": "float16"}, "rows of several dtypes: got float16, float32; expected one"),
        ({"data_sha256": "0" * 64}, "chair was asked of several data sets: got 000000000000"),
        ({"status": "failed"}, "is not finished: got failed"),
    ],
)
def test_records_that_are_not_as_declared(
    fields: dict[str, Any], message: str, rehearsed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(rehearsed, tmp_path)
    path = next(path for path in folder.glob("chair/*/*/run.json") if json.loads(path.read_text())["adapter"] is None)
    change(path, **fields)
    assert main(["check", str(folder)]) == 1
    assert re.search(message, " ".join(capsys.readouterr().out.split()))
    if "status" not in fields:
        assert main(["render", str(folder), "--output", str(tmp_path / "handed")]) == 2
        assert re.search("nothing to hand in: got 1 problems", capsys.readouterr().err)
        assert not (tmp_path / "handed").exists()


def test_a_method_of_another_configuration_is_another_row(tmp_path: Path) -> None:
    protocol = get_protocol("llava15-pope-chair").rehearsed()
    row = next(row for row in rows_of(protocol.part("pope-greedy")) if row.method == "plausibility_only")
    own = scr.get_method(row.method).configure({}).to_dict()
    samples = questions(images=2, traced=False)
    for part, config in (("as it is", own), ("another", {**own, "plausibility": 0.5})):
        fields = {"prompt": row.prompt, "generation": dict(row.generation), "limit": 2, "config": config}
        write(tmp_path / part, record(row.method, row.task, **fields), samples)
        rescore(tmp_path / part)
    stamp = dataclasses.replace(STAMP, model="lab/llava", revision="sha256:0")
    good, bad = (examine(tmp_path / name, protocol, stamp) for name in ("as it is", "another"))
    assert (good.wrong, good.lacking, [one.row for one in good.measured]) == ([], [], [row])
    assert len(good.missing) == sum(len(rows_of(part)) for part in protocol.parts) - 1
    (said,) = bad.wrong
    assert "another configuration: got {'plausibility': 0.5}; expected {'plausibility': 0.1}" in said


def test_what_a_tokenizer_fills_in_is_no_setting_and_a_combination_is_its_parts(tmp_path: Path) -> None:
    short = Part(name="short", tasks=("pope_random",), methods=("icd", "vcd+purified"), limit=2)
    protocol = dataclasses.replace(get_protocol("llava15-pope-chair"), parts=(short,))
    vcd, purified = (scr.get_method(name).configure({}).to_dict() for name in ("vcd", "purified"))
    icd = {**scr.get_method("icd").configure({}).to_dict(), "instruction": [5, 6]}
    both = {"vcd": vcd, "purified": purified}
    runs = {
        "as declared": [("icd", icd, {"instruction": [5, 6]}), ("vcd+purified", both, {"vcd": {}, "purified": {}})],
        "others": [
            ("icd", {**icd, "contrast": 2.0}, {"contrast": 2.0, "instruction": [5, 6]}),
            ("vcd+purified", {**both, "vcd": {**vcd, "plausibility": 0.5}}, {"vcd": {"plausibility": 0.5}}),
        ],
    }
    for folder, methods in runs.items():
        for method, config, given in methods:
            fields = {"generation": {"do_sample": False}, "limit": 2, "config": config, "config_given": given}
            write(tmp_path / folder, record(method, **fields), questions(images=2, traced=False))
        rescore(tmp_path / folder)
    stamp = dataclasses.replace(STAMP, model="lab/llava", revision="sha256:0")
    good, bad = (examine(tmp_path / name, protocol, stamp) for name in runs)
    assert (good.wrong, [one.row.method for one in good.measured]) == ([], ["icd", "vcd+purified"])
    assert [said.partition(": ")[2] for said in bad.wrong] == [
        "another settings of the method: got {'contrast': 2.0}; expected {}. Run the row again.",
        "another configuration: got {'contrast': 2.0}; expected {'contrast': 1.0}. Run the row again.",
        "another settings of the method: got {'vcd.plausibility': 0.5}; expected {}. Run the row again.",
        "another configuration: got {'vcd.plausibility': 0.5}; expected {'vcd.plausibility': 0.1}. Run the row again.",
    ]


def test_a_protocol_may_declare_methods_that_a_tokenizer_fills_in(data: Path, models: Any, tmp_path: Path) -> None:
    short = Part(name="short", tasks=("pope_random",), methods=("icd", "vcd+purified"), limit=2)
    protocol = dataclasses.replace(get_protocol("llava15-pope-chair"), parts=(short,), files={}, anchors=())
    (plan,) = plan_parts(protocol, data, tmp_path, model=models["llava15-pope-chair"][1])
    given = {cell.method: cell.config_given for cell in plan.cells}
    assert given["icd"]["instruction"]
    assert given["vcd+purified"] == {"vcd": {}, "purified": {}}


def test_of_two_runs_of_one_row_neither_is_dropped(rehearsed: Path, tmp_path: Path) -> None:
    folder = copied(rehearsed, tmp_path)
    path = next(folder.glob("chair/*/*"))
    shutil.copytree(path, path.with_name("none-z"))
    stamp = read_stamp(folder)
    found = examine(folder, declared_by(stamp), stamp)
    (said,) = found.wrong
    assert re.match(rf"row chair, none, .* was run twice: got {path.relative_to(folder)} and .*none-z;", said)
    assert "expected one." in said
    assert len(found.measured) == 11


def test_rows_of_several_adapters_and_a_stand_in_are_said(rehearsed: Path, tmp_path: Path) -> None:
    stamp = read_stamp(rehearsed)
    protocol = declared_by(stamp)
    assert stamp.adapter == next(run.read_run().adapter for run in find_runs(rehearsed) if run.read_run().adapter)
    assert any(
        f"A STAND-IN: the adapter {stamp.adapter} in place of refusal" in said for said in remarks(protocol, stamp)
    )
    declared = dataclasses.replace(stamp, adapter="refusal@sha256:0")
    assert not any("adapter" in said for said in remarks(protocol, declared))
    assert f"Adapter: {stamp.adapter}." in as_markdown(protocol, stamp, Examination([], [], [], []))
    folder = copied(rehearsed, tmp_path)
    path = next(path for path in folder.glob("chair/*/*/run.json") if json.loads(path.read_text())["adapter"])
    change(path, adapter="another@sha256:0")
    found = examine(folder, protocol, stamp)
    assert found.wrong == [
        f"rows of another adapter: got another@sha256:0; expected {stamp.adapter}, as stamped. Use a folder for each."
    ]


def test_an_adapter_is_stamped_by_the_first_part_that_has_one(tmp_path: Path) -> None:
    write_stamp(tmp_path, STAMP)
    adapted = dataclasses.replace(STAMP, adapter="refusal@sha256:0", started="later")
    write_stamp(tmp_path, adapted)
    assert read_stamp(tmp_path) == dataclasses.replace(adapted, started=STAMP.started)
    write_stamp(tmp_path, STAMP)
    assert read_stamp(tmp_path).adapter == "refusal@sha256:0"
    protocol = get_protocol("smolvlm-refusal")
    assert protocol.adapter == "refusal"
    others = (protocol.parts[0], dataclasses.replace(protocol.parts[0], adapter="another"))
    with pytest.raises(scr.ConfigError, match="with several adapters: got another, refusal; expected one"):
        dataclasses.replace(protocol, parts=others)


def test_samples_that_no_rule_can_grade(rehearsed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied(rehearsed, tmp_path)
    path = next(folder.glob("pope_random/*/*/samples.jsonl"))
    path.write_text(path.read_text().replace('"target": "yes"', '"target": "perhaps"'))
    assert main(["check", str(folder)]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "10 of 11 rows" in out
    assert "cannot be graded: a yes/no question has a wrong target: got 'perhaps'" in out


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda handed, one: one.write_text(one.read_text().replace("2026", "2025", 1)), "was changed: got"),
        (lambda handed, one: one.unlink(), r"a file is missing: got no .*run\.json"),
        (lambda handed, one: (one.parent / "1.png").write_bytes(b"png"), r"does not list: got .*1\.png"),
        (lambda handed, one: (handed / MANIFEST_FILE).write_text("[]"), "lists no files: got list"),
    ],
)
def test_a_folder_that_was_changed_after_it_was_rendered(
    do: Any, message: str, rehearsed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handed = tmp_path / "handed"
    assert main(["render", str(rehearsed), "--output", str(handed)]) == 0
    path = next(handed.glob("sycophancy/*/*/run.json"))
    assert "2026" in path.read_text()
    do(handed, path)
    assert main(["check", str(handed)]) == 1
    said = "".join(capsys.readouterr().out.split())  # a long path is broken anywhere
    assert re.search(message.replace(" ", ""), said)


def made(name: str, metrics: dict[str, dict[str, float]]) -> Examination:
    """An examination of baselines alone: "part task" → metrics."""
    protocol = get_protocol(name)
    measured = []
    for where, values in metrics.items():
        part, task = where.split()
        row = next(row for row in rows_of(protocol.part(part)) if row.task == task and row.is_baseline)
        scores = dataclasses.replace(load_task(task).score([]), metrics=values)
        measured.append(Measured(row, Path(task), record(task=task), [], scores))
    return Examination(measured, [], [], [])


STAMP = Stamp(
    protocol="llava15-pope-chair",
    version=1,
    sha256="0" * 64,
    rehearsal=False,
    model="llava-hf/llava-1.5-7b-hf",
    revision="abc",
    shape={"num_hidden_layers": 32, "hidden_size": 4096},
    started="2026-01-01T00:00:00+00:00",
)


def pope(accuracy: float) -> dict[str, dict[str, float]]:
    return {
        f"pope-greedy pope_{split}": {"accuracy": accuracy + step, "f1": accuracy + step}
        for split, step in (("random", 0.03), ("popular", 0.0), ("adversarial", -0.03))
    }


@pytest.mark.parametrize(
    ("accuracy", "off"),
    [(0.855, 0.0), (0.847, 0.0), (0.832, -0.0141), (0.83, -0.0161), (0.80, -0.0461), (0.90, 0.03), (0.88, 0.01)],
)
def test_a_baseline_is_measured_from_the_nearest_edge_of_what_was_published(accuracy: float, off: float) -> None:
    protocol = get_protocol("llava15-pope-chair")
    compared = compare_baseline(made(protocol.name, pope(accuracy)), protocol)
    first = compared[0]
    assert (first.anchor.tasks, first.anchor.metric) == ("pope", "accuracy")
    assert first.value == pytest.approx(accuracy)
    assert first.off == pytest.approx(off, abs=5e-5)
    assert first.is_off == (abs(off) > 0.015)
    if accuracy == 0.855:
        assert first.nearest["source"].startswith("RUDDER")
    others = [one for one in compared if one.anchor.part != "pope-greedy"]
    assert others
    assert {one.off for one in others} == {None}


def test_a_baseline_that_is_off_is_said_with_its_usual_causes_before_anything_is_believed() -> None:
    protocol = get_protocol("llava15-pope-chair")
    said, off = verdicts(made(protocol.name, pope(0.80)), protocol, STAMP)
    text = "\n".join(said)
    assert off
    assert re.search(
        r"pope-greedy, pope, accuracy: 80\.0; published 84\.6–87\.0 \(nearest: FLASH, .*\): your baseline is off by "
        r"-4\.6 points, where 1\.5 were declared as tolerable",
        text,
    )
    assert "Usual causes, pope: another wording of the question" in text
    assert said[-1] == "Find out why before you believe a gain over this baseline."
    assert "chair-greedy, chair, CHAIR-s: not measured; published 45.0–52.8" in text
    good, off = verdicts(made(protocol.name, pope(0.855)), protocol, STAMP)
    assert not off
    assert "Usual causes" not in "\n".join(good)
    assert "pope-greedy, pope, accuracy: 85.5; published 84.6–87.0" in "\n".join(good)


def test_a_baseline_that_cannot_be_compared_is_no_good_one() -> None:
    protocol = get_protocol("llava15-pope-chair")
    nothing = Examination([], [], [], [])
    assert verdicts(nothing, protocol, STAMP)[1]
    said, off = verdicts(nothing, get_protocol("qwen25vl"), dataclasses.replace(STAMP, model=""))
    assert (len(said), off) == (1, False)
    assert "not compared" in said[0]
    real = dataclasses.replace(STAMP, model=get_protocol("qwen25vl").model)
    said, off = verdicts(nothing, get_protocol("qwen25vl"), real)
    assert re.fullmatch(r"The baseline is unchecked: no number of this model .* Take no gain .*", said[0])
    assert remarks(protocol, STAMP) == []


def test_check_and_the_page_say_what_is_missing_and_what_is_off(capsys: pytest.CaptureFixture[str]) -> None:
    protocol = get_protocol("llava15-pope-chair")
    samples = questions(images=4, traced=False)
    rows = [row for row in rows_of(protocol.part("pope-greedy")) if row.task == "pope_random"]
    scores = load_task("pope_random").score(samples)
    measured = [
        Measured(row, Path(row.method), record(row.method, row.task), samples, scores)
        for row in rows
        if row.method in ("none", "scr")
    ]
    found = Examination(measured, [rows[2]], ["few"], [])
    page = as_markdown(protocol, STAMP, found)
    assert "## pope-greedy: pope_random" in page
    assert "| Δ | | +0.0 (+0.0…+0.0)" in page
    assert "* not run: pope-greedy, pope_random, vcd" in page
    assert "* few" in page
    assert not print_examination(protocol, STAMP, found, ["changed"])
    out = " ".join(capsys.readouterr().out.split())
    for word in ("2 of 3 rows", "not run of pope-greedy: pope_random: vcd", "incomplete: few", "wrong: changed"):
        assert word in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "qwen25", "--data-dir", "d"], "unknown protocol: got 'qwen25'.*Did you mean 'qwen25vl'"),
        (
            ["run", NAMES[0], "--data-dir", "d", "--method", "scr"],
            "--method: got 'scr'; expected none, as the rows are",
        ),
        (["run", NAMES[0], "--data-dir", "d", "--seed=3"], "--seed: got '3'; expected none.* under no protocol's name"),
        (["run", NAMES[0], "--data-dir", "DATA", "MODEL", "--part", "pope-gredy"], "Did you mean 'pope-greedy'"),
        (["run", NAMES[1], "--data-dir", "DATA", "MODEL"], "another class: got .*of type 'llava'.*'qwen2_5_vl'"),
        (["run", NAMES[0], "--data-dir", "DATA", "MODEL"], "not the one that llava15-pope-chair declares: .*not there"),
        (
            ["run", NAMES[0], "--data-dir", "WRONG", "MODEL"],
            r"declares: got .*random\.json, [0-9a-f]{12}; expected ac25",
        ),
        (["run", NAMES[0], "--data-dir", "DATA", "TUNED", "--rehearse"], r"does not declare: got \{'num_sources': 4\}"),
        (["check", "nowhere"], "no folder of a protocol: got nowhere without protocol.json"),
        (["render", "nowhere", "--output", "x"], "no folder of a protocol"),
    ],
)
def test_what_is_refused(
    arguments: list[str], message: str, data: Path, models: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(models[NAMES[0]][1])
    if "TUNED" in arguments:
        shutil.copytree(model, tmp_path / "tuned")
        (tmp_path / "tuned" / "scr.json").write_text('{"settings": {"num_sources": 4}}')
    if "WRONG" in arguments:
        shutil.copytree(data, tmp_path / "coco")
        (tmp_path / "coco" / "pope").mkdir()
        (tmp_path / "coco" / "pope" / "coco_pope_random.json").write_text("{}")
    names = {"DATA": [str(data)], "WRONG": [str(tmp_path / "coco")], "MODEL": models[NAMES[0]]}
    names["TUNED"] = ["--model", str(tmp_path / "tuned")]
    given = [word for argument in arguments for word in names.get(argument, [argument])]
    assert main([*given, *(["--output-dir", str(tmp_path / "out")] if given[0] == "run" else [])]) == 2
    assert re.fullmatch(rf"error: .*{message}.*\n", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_folder_is_of_one_protocol_declared_before(rehearsed: Path, tmp_path: Path) -> None:
    stamp = read_stamp(rehearsed)
    assert declared_by(stamp) == get_protocol("smolvlm-refusal").rehearsed()
    write_stamp(rehearsed, dataclasses.replace(stamp, started="later"))
    assert read_stamp(rehearsed) == stamp
    for fields in (
        {"protocol": "qwen25vl"}, {"model": "another"}, {"rehearsal": False}, {"sha256": "0"}, {"adapter": "a@b"},
    ):  # fmt: skip
        with pytest.raises(scr.ConfigError, match=f"a folder of another {next(iter(fields))}"):
            write_stamp(rehearsed, dataclasses.replace(stamp, **fields))
    with pytest.raises(scr.ConfigError, match=r"was declared otherwise: got version 1, 0;"):
        declared_by(dataclasses.replace(stamp, sha256="0"))
    folder = copied(rehearsed, tmp_path)
    (folder / STAMP_FILE).unlink()
    with pytest.raises(scr.ConfigError, match=r"run before they were declared: got 11 runs"):
        write_stamp(folder, stamp)
    (folder / STAMP_FILE).write_text("[]")
    with pytest.raises(scr.ConfigError, match="fields of Stamp are missing"):
        read_stamp(folder)


def test_any_change_of_a_declaration_is_another_one() -> None:
    protocol = get_protocol("llava15-pope-chair")
    part = dataclasses.replace(protocol.parts[0], methods=("scr",))
    others = [
        dataclasses.replace(protocol, parts=(part, *protocol.parts[1:])),
        dataclasses.replace(protocol, anchors=protocol.anchors[1:]),
        protocol.rehearsed(),
    ]
    assert len({one.sha256 for one in (protocol, *others)}) == 4
    assert get_protocol(protocol.name).sha256 == protocol.sha256
    with pytest.raises(scr.ConfigError, match=r"unknown field of Part"):
        Part.from_dict({"name": "a", "tasks": ["pope"], "methods": [], "limit": 1, "batch": 3})
    with pytest.raises(scr.ConfigError, match="tolerance out of range"):
        Anchor(
            part="a", tasks="pope", metric="f1", tolerance=2.0, published=(Published(value=1, source="", protocol=""),)
        )
    assert isinstance(protocol, Protocol)


def test_a_folder_that_is_there_is_not_written_into(rehearsed: Path, tmp_path: Path) -> None:
    stamp = read_stamp(rehearsed)
    protocol = declared_by(stamp)
    found = examine(rehearsed, protocol, stamp)
    (tmp_path / "x").write_text("mine")
    with pytest.raises(scr.ConfigError, match="a folder that is not empty"):
        hand_in(rehearsed, tmp_path, protocol, stamp, found)
    written = hand_in(rehearsed, tmp_path / "new", protocol, stamp, found)
    assert tmp_path / "new" / TABLE_FILE in written


def test_the_list_says_what_to_get_and_what_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for name in NAMES:
        protocol = get_protocol(name)
        assert f"{name}, version 1: {protocol.summary}" in out
        assert f"model: {protocol.model}" in out
        assert all(f"{part.name}: " in out for part in protocol.parts)
    assert "no number of this model under a stated protocol was found" in out
