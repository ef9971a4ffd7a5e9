"""The command line: what it runs, what it prints, and how it refuses."""

from __future__ import annotations

import dataclasses
import html
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from miniature import without_times, write_coco

import scr
from benchmarks import notebook
from benchmarks.asking.answering import Answerer
from benchmarks.lab import CHECKPOINTS
from benchmarks.printing import table
from benchmarks.run import build_parser, main
from benchmarks.running.plan import RunConfig, build_plan
from benchmarks.running.runner import run
from benchmarks.stats import Comparison
from benchmarks.store import find_runs
from benchmarks.tasks import GROUPS, TASKS
from benchmarks.tasks.parsing import RULES

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def arguments(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A small run, without its output folder."""
    data = write_coco(tmp_path_factory.mktemp("data") / "coco")
    small = ["--limit", "4", "--batch-size", "12", "--gen-kwarg", "max_new_tokens=3"]
    return ["--model", str(checkpoint), "--data-dir", str(data), *small]


def test_the_defaults_are_those_of_the_configuration() -> None:
    options, config = build_parser().parse_args([]), RunConfig()
    assert options.method == config.methods == ("scr",)
    assert options.model == config.model == "lab/llava"
    assert options.tasks == config.tasks == ("pope", "chair")
    assert options.limit == config.limit == 100
    for name in ("batch_size", "seed", "dtype", "device", "prompt", "output_dir", "data_dir", "split", "overwrite"):
        assert getattr(options, name) == getattr(config, name), name


def test_a_run_from_the_command_line(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # ./results is the default
    command = [*arguments, "--method", "scr,uniform_smooth", "--method-arg", "num_sources=4"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert len(find_runs(Path("results"))) == 4 * 3
    lines = out.splitlines()
    assert max(map(len, lines[: lines.index("records: results/")])) <= 100  # paths are not broken
    assert "\x1b" not in out
    assert "it/s" not in err  # no progress bar where there is no terminal
    for word in (
        *("accuracy", "precision", "recall", "F1", "yes ratio", "HR", "AUC", "tp fp tn fn", "unparsed"),
        *("CHAIR-s", "CHAIR-i", "length", "mentions", "McNemar", "changed", "right→", "wrong→", "prefill", "ms per"),
        *("num_sources=4", "24 samples on 4 images"),
    ):
        assert word in out, word
    for name in (*GROUPS["pope"], "chair"):
        assert f"\n{name} · " in out
    assert "lab numbers" not in out
    record = json.loads(next(Path("results").glob("chair/*/scr-*/run.json")).read_text())
    assert record["command"].startswith("python -m benchmarks.run --model ")
    assert record["config_given"] == {"num_sources": 4}
    # Once more: everything is there, and the numbers are the same.
    assert main(command) == 0
    again, err = capsys.readouterr()
    assert err.count("taken from") == 12
    before, after = (re.sub(r"\(.* new answers\)|\(from the store\)", "", text) for text in (out, again))
    assert before == after
    # Metrics that were lost are rebuilt from the samples.
    broken = next(Path("results").glob("chair/*/scr-*/run.json"))
    broken.write_text(json.dumps({**record, "metrics": {}}))
    assert main(["--rescore"]) == 0
    assert "changed: chair_s, " in capsys.readouterr().out
    assert json.loads(broken.read_text()) == record


def test_the_baseline_alone(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*arguments, "--method", "none", "--tasks", "pope_popular", "--output-dir", str(tmp_path)]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert [folder.method for folder in find_runs(tmp_path)] == ["none"]
    assert "McNemar\n" not in out
    assert "− none" not in out


def test_a_dry_run_computes_and_writes_nothing(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    command = [*arguments, "--tasks", "pope_random", "--output-dir", str(results)]
    with monkeypatch.context() as patched:
        patched.setattr("benchmarks.running.answers.load_model", None)
        assert main([*command, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert not results.exists()
    rows = [line.split() for line in out.splitlines() if line.startswith("pope_random")]
    assert rows == [["pope_random", name, "4", "24", "2", "0", "to", "run"] for name in ("none", "scr")]
    assert "layers=[0, 3]" in out  # the effective configuration
    assert f"{results}/pope_random/" in out
    assert main([*command, "--method", "none"]) == 0
    capsys.readouterr()
    assert main([*command, "--dry-run"]) == 0
    states = [line.split()[5:] for line in capsys.readouterr().out.splitlines() if line.startswith("pope_random")]
    assert states == [["24", "done"], ["0", "to", "run"]]


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("methods", ["none", *scr.list_methods()]),
        ("families", scr.list_families()),
        ("tasks", [*TASKS, *GROUPS]),
        ("rules", list(RULES)),
        ("prompts", ["default", "one_word", "vcd", "yes_or_no", "cot", "defensive"]),
    ],
)
def test_lists(what: str, names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", what]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == names


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--method", "scrr"], "unknown method: got 'scrr'.*Did you mean 'scr'?"),
        (["--tasks", "popee"], "unknown task: got 'popee'.*Did you mean 'pope'?"),
        (
            ["--method", "scr+noise_contrl"],
            r"unknown method: got 'noise_contrl' in 'scr\+noise_contrl'.*Did you mean 'noise_control'?",
        ),
        (["--method", "scr+none"], r"baseline in a combination: got 'scr\+none'.*Leave 'none' out"),
        (["--method", "scr+noise_control+scr"], r"a method twice in a combination: got 'scr\+noise_control\+scr'"),
        (["--method", "scr+"], r"unknown method: got '' in 'scr\+'"),
        (
            ["--method", "scr,noise_control", "--method-arg", "noise_contrl.seed=1"],
            "setting of a method that is not run: got 'noise_contrl.seed'.*Did you mean 'noise_control'?",
        ),
        (["--method-arg", "none.scale=1.1"], "setting of a method that is not run: got 'none.scale'"),
        (["--method-arg", "scr.num_source=3"], "unknown field of SCRConfig.*Did you mean 'num_sources'?"),
        (["--prompt-variant", "oneword"], "unknown prompt variant: got 'oneword'.*Did you mean 'one_word'?"),
        (["--model", "lab/lava"], "unknown lab model: got 'lab/lava'.*Did you mean 'lab/llava'?"),
        (["--model", "./nowhere"], "no such folder: got './nowhere'"),
        (["--method-arg", "num_source=3"], "unknown field of SCRConfig.*Did you mean 'num_sources'?"),
        (["--method-arg", "scale"], "--method-arg: got 'scale'; expected KEY=VALUE"),
        (["--method-arg", "scale=0.1"], "scale"),
        (["--gen-kwarg", "max_token=3"], "unknown generation argument.*Did you mean 'max_new_tokens'?"),
        (["--limit", "0"], "--limit: got '0'; expected 1 or more"),
        (["--batch-size", "x"], "--batch-size: got 'x'; expected 1 or more"),
        (["--data-dir", "nowhere"], "no data set: got nowhere"),
        (["--split", "train"], "unknown split: got 'train'; expected one of val"),
        (["--dtype", "int8"], "unknown dtype: got 'int8'"),
        (["--device", "tpu9"], "unknown device: got 'tpu9'"),
        (["--device-map", "atuo"], "unknown device map: got 'atuo'.*Did you mean 'auto'?"),
        (["--device-map", "{cpu}"], "--device-map: got '{cpu}'; expected .* a JSON object"),
        (["--device-map", '{"": 1e999}'], "--device-map: a value is no JSON: .*the number 1e999 is too large"),
        (["--device-map", '{"a": ' * 200 + "1" + "}" * 200], "--device-map: a value is nested too deep"),
        (["--device-map", "auto", "--device", "cuda:1"], "two places for one model: got device 'cuda:1'"),
        (["--expect-world-size", "2"], "another number of processes than expected: got 1; expected 2"),
        (["--resume", "--overwrite"], "not allowed with"),
        (["--list", "everything"], "argument --list: got 'everything'; expected one of methods"),
        (["--frobnicate"], "unknown argument: got '--frobnicate'"),
        (["--rescore", "--output-dir", "nowhere"], "no runs: got nowhere"),
        (["--output-dir", __file__], "records cannot go there: got .*, a file"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    extra: list[str], message: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, *extra]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"error: .*{message}.*\n", err), err


def test_a_model_without_data_says_what_to_give(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", str(checkpoint)]) == 2
    assert "Give --data-dir FOLDER with annotations/instances_<split>.json" in capsys.readouterr().err


def test_a_failed_run_is_exit_code_1(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    data = tmp_path / "coco"
    shutil.copytree(arguments[3], data)
    (data / "images" / "000003.png").unlink()
    command = [*arguments, "--data-dir", str(data), "--limit", "all", "--tasks", "chair", "--batch-size", "1"]
    assert main([*command, "--method", "none", "--output-dir", str(tmp_path / "results")]) == 1
    assert re.search(
        r"error: chair · none failed: got RefusedError: .*000003.png.*got FileNotFoundError: .* kept in",
        capsys.readouterr().err,
    )
    (folder,) = find_runs(tmp_path / "results")
    stopped = folder.read_run()
    assert stopped is not None
    assert stopped.status == "failed"


def test_a_combination_from_the_command_line(
    arguments: list[str],
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(checkpoint, tmp_path / "tuned")
    (tmp_path / "tuned" / "scr.json").write_text('{"settings": {"num_sources": 5, "scale": 1.3}}')
    monkeypatch.chdir(tmp_path)
    command = [*arguments, "--model", "tuned", "--tasks", "pope_random", "--method", "scr+noise_control"]
    command += ["--method-arg", "num_sources=6", "--method-arg", "noise_control.num_sources=7"]
    command += ["--method-arg", "noise_control.scale=1.2"]
    assert main([*command, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    # Each part with its own fields, and those from scr.json that the command leaves as they are.
    part = next(index for index, line in enumerate(lines) if line.startswith("scr: "))
    other = next(index for index, line in enumerate(lines) if line.startswith("noise_control: "))
    head, tail = " ".join(lines[part:other]), " ".join(lines[other : lines.index("", other)])
    assert "num_sources=6" in head
    assert "scale=1.3" in head
    assert "of these scale from scr.json" in head
    assert "num_sources=7" in tail
    assert "scale=1.2" in tail
    assert "scr.json" not in tail
    rows = [line.split()[1] for line in lines if line.startswith("pope_random")]
    assert rows == ["none", "scr+noise_control"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "\nscr+\nnoise_control " in out  # on two lines, and the numbers stand beside it
    assert max(map(len, out.split("records:")[0].splitlines())) <= 100
    assert [folder.method for folder in find_runs(Path("results"))] == ["none", "scr+noise_control"]
    assert main([*command, "--method", "none,scr"]) == 2
    assert "expected FIELD or NAME.FIELD with NAME one of scr." in capsys.readouterr().err


def test_a_device_map_from_the_command_line(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*arguments, "--tasks", "pope_random", "--method", "none"]
    assert main([*command, "--output-dir", str(tmp_path / "plain")]) == 0
    for number, given in enumerate(("auto", "cpu", '{"": "cpu"}')):
        root = tmp_path / str(number)
        assert main([*command, "--device-map", given, "--output-dir", str(root)]) == 0
        (mapped,), (plain,) = find_runs(root), find_runs(tmp_path / "plain")
        assert mapped.digest == plain.digest  # where a model lies is no part of what names a run
        assert without_times(mapped.samples()) == without_times(plain.samples())
        record = mapped.read_run()
        assert record is not None
        assert record.device == "device map over cpu"


def test_only_the_first_process_lists_and_plans(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    for instead in (["--list", "tasks"], ["--dry-run"], ["--rescore"]):
        assert main([*arguments, *instead]) == 0
        assert capsys.readouterr().out == ""
    monkeypatch.setenv("RANK", "0")
    assert main(["--list", "tasks"]) == 0
    assert "chair" in capsys.readouterr().out
    monkeypatch.setenv("RANK", "1")
    assert main([*arguments, "--expect-world-size", "3"]) == 2
    assert capsys.readouterr().err.startswith("error (process 1): ")


def test_several_methods_and_few_samples_are_said(finished: RunConfig) -> None:
    file = io.StringIO()
    report(finished, file)
    lines = " ".join(file.getvalue().split())
    assert "p (Holm): adjusted for the 3 methods compared on this task" in lines
    assert lines.count("few samples: with 18, of which") == 3
    assert "McNemar" in lines
    assert "p (Holm)" in file.getvalue().split("few samples")[0]
    alone = io.StringIO()
    report(dataclasses.replace(finished, methods=("scr",)), alone)
    assert "Holm" not in alone.getvalue()
    assert "points in right answers would be missed more often than 20 times in 100" in " ".join(
        alone.getvalue().split()
    )


def test_p_values_are_adjusted(finished: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    given = iter((0.02, 0.5, 0.01))

    def comparison(p: float) -> Comparison:
        return Comparison(n=900, images=9, unpaired=0, differences={}, reasons={}, changed=3, right_to_wrong=1,
                          wrong_to_right=2, mcnemar_p=p)  # fmt: skip

    monkeypatch.setattr("benchmarks.tasks.base.compare_tables", lambda *tables: comparison(next(given)))
    file = io.StringIO()
    report(finished, file)
    rows = {line.split()[0]: line.split() for line in file.getvalue().splitlines() if " 3      1      2 " in line}
    assert {name: next(p for p in row if p in ("0.040", "0.500", "0.030")) for name, row in rows.items()} == {
        "scr": "0.040", "uniform_smooth": "0.500", "noise_control": "0.030",
    }  # fmt: skip
    assert "few samples" not in file.getvalue()


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for flag in (
        *(
            "--model",
            "--revision",
            "--dtype",
            "--device",
            "--attn-implementation",
            "--method",
            "--method-arg",
            "--prompt-variant",
        ),
        *("--tasks", "--limit", "--batch-size", "--seed", "--gen-kwarg", "--data-dir", "--split", "--output-dir"),
        *("--device-map", "--expect-world-size", "--resume", "--overwrite", "--rescore", "--dry-run", "--list"),
    ):
        assert flag in out, flag
    for words in ("A+B is both", "[NAME.]K=V", "yes_or_no, cot, defensive"):
        assert words in " ".join(out.split()), words


class Terminal(io.StringIO):
    """A terminal of a given width, for rich."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def finished(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    config = RunConfig(
        model=arguments[1],
        data_dir=Path(arguments[3]),
        methods=("scr", "uniform_smooth", "noise_control"),
        tasks=("pope_adversarial",),
        limit=3,
        generation={"max_new_tokens": 2},
        output_dir=tmp_path_factory.mktemp("results"),
    )
    run(config)
    return config


def report(config: RunConfig, file: io.StringIO | io.TextIOWrapper) -> None:
    table.print_report(build_plan(config), run(config), file)


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_the_table_fits_a_terminal(columns: int, finished: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    file = Terminal()
    report(finished, file)
    text = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())
    assert text != file.getvalue()
    shown = text.split("records:")[0].splitlines()
    assert max(map(len, shown)) <= columns
    # Nothing is cut off: every interval has both of its ends.
    assert sum(len(re.findall(r"\d–\d", line)) for line in shown) >= 4 * 6


def test_a_notebook_shows_the_tables_that_are_printed(finished: RunConfig) -> None:
    file = io.StringIO()
    report(finished, file)
    shown = notebook.run(finished)._repr_html_()
    assert shown.startswith("<pre>")
    tables = html.unescape(shown.removeprefix("<pre>").removesuffix("</pre>"))
    assert "− none" in tables
    assert tables in file.getvalue()


def test_the_table_in_ascii(finished: RunConfig) -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    report(finished, file)
    file.flush()
    text = raw.getvalue().decode("ascii")
    assert "right>" in text
    assert "- none" in text
    assert "?" not in text


def test_lab_pictures_and_lab_models_on_others_are_told_apart(finished: RunConfig) -> None:
    plan, outcomes = build_plan(finished), run(finished)

    def warned(is_lab: bool, data_dir: Path | None) -> tuple[bool, bool]:
        file = io.StringIO()
        source = dataclasses.replace(plan.source, is_lab=is_lab)
        config = dataclasses.replace(plan.config, data_dir=data_dir)
        table.print_report(dataclasses.replace(plan, source=source, config=config), outcomes, file)
        text = " ".join(file.getvalue().split())
        return table.LAB_LINE in text, table.LAB_MODEL_LINE in text

    assert warned(True, None) == (True, False)
    assert warned(True, finished.data_dir) == (False, True)
    assert warned(False, finished.data_dir) == (False, False)


def test_a_timed_dry_run_asks_a_few_questions_and_records_nothing(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    answer = Answerer.answer

    def counting(self: Answerer, questions: Any, *rest: Any, **options: Any) -> Any:
        asked.append(len(questions))
        return answer(self, questions, *rest, **options)

    monkeypatch.setattr(Answerer, "answer", counting)
    command = [*arguments, "--tasks", "pope_random", "--output-dir", str(tmp_path / "results")]
    assert main([*command, "--dry-run=timed"]) == 0
    out = capsys.readouterr().out
    assert not (tmp_path / "results").exists()
    assert asked == [8, 8, 8, 8]  # a warm-up and a timed batch, without and with the method
    rows = [line.split() for line in out.splitlines() if line.startswith("pope_random")]
    assert [row[-1] for row in rows] == ["s", "s"]
    assert re.search(r"time: about \d+ s in one process", out)
    assert re.search(r"memory: weights 0.00 GiB in float32; the cache of a batch of 12 takes", out)
    assert main([*command, "--dry-run=soon"]) == 2


def test_the_default_finds_the_lab_and_its_data(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: Path,
    arguments: list[str],
) -> None:
    # The lab's own checkpoint and world have tests of their own; here only the way to them.
    monkeypatch.setattr(
        "benchmarks.asking.models.checkpoint_folder", lambda name: checkpoint if name in CHECKPOINTS else None
    )
    asked: list[tuple[str, int, str]] = []

    def data_folder(split: str, count: int, model: str) -> Path:
        asked.append((split, count, model))
        return write_coco(tmp_path / split, split=split)

    monkeypatch.setattr("benchmarks.running.plan.data_folder", data_folder)
    assert main(["--dry-run", "--output-dir", str(tmp_path / "results")]) == 0
    assert asked == [("test", 500, "lab/llava")]
    out = capsys.readouterr().out
    assert "model lab/llava" in out
    assert "/chair/lab--llava/scr-" in out
    assert main(["--dry-run", "--split", "val"]) == 0
    assert asked[1] == ("val", 500, "lab/llava")
    assert main(["--dry-run", "--split", "dev"]) == 2
    assert "unknown split of the lab: got 'dev'" in capsys.readouterr().err


def test_real_photographs(
    checkpoint: Path, test_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = test_data / "coco_sample"
    if not sample.is_dir():
        pytest.skip(f"no photographs: {sample} is no folder")
    data = tmp_path / "coco"
    (data / "annotations").mkdir(parents=True)
    (data / "annotations" / "instances_val2014.json").symlink_to(sample / "instances.json")
    (data / "annotations" / "captions_val2014.json").symlink_to(sample / "captions.json")
    (data / "images").symlink_to(sample / "images")
    command = ["--model", str(checkpoint), "--data-dir", str(data), "--method", "scr", "--limit", "5"]
    more = ["--batch-size", "15", "--gen-kwarg", "max_new_tokens=2", "--output-dir", str(tmp_path / "results")]
    assert main([*command, *more]) == 0
    assert "30 samples on 5 images" in capsys.readouterr().out
    folders = find_runs(tmp_path / "results")
    assert len(folders) == 8
    for folder in folders:
        record = folder.read_run()
        assert record is not None
        assert record.status == "finished"
        assert len(folder.samples()) == (5 if folder.task == "chair" else 30)
