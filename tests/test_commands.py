"""What holds for every command of the project: help at once, one spelling, one sentence for what cannot be used."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from analysis.command import build_parser
from analysis.figures import ANALYSES
from scr.command import types
from scr.command.table import COMMANDS, main

ROOT = Path(__file__).parent.parent
MODULES = sorted({command.module for command in COMMANDS.values()})
SUBCOMMANDS = {
    "benchmarks.calibrate": ("yes-shift", "confidence"),
    "benchmarks.lab.smol": ("fetch", "train", "merge"),
    "benchmarks.score": ("pope", "chair", "caption"),
    "benchmarks.protocol": ("list", "run", "check", "render"),
    "benchmarks.results": ("list", "diff", "rm"),
    "scr.adapters.train": ("seed", "refusal", "prepare", "merge"),
    "scr.onepass": ("train",),
}
EVERY = [(module, sub) for module in MODULES for sub in ("", *SUBCOMMANDS.get(module, ()))]
HEAVY = {"torch", "transformers", "peft", "matplotlib"}


def test_the_table_has_every_command():
    runnable = set()
    for folder in ("scr", "hooks", "benchmarks", "analysis"):
        for path in (ROOT / folder).rglob("*.py"):
            if 'if __name__ == "__main__":' in path.read_text():
                runnable.add(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__"))
    # The list itself is no command in it, one renders a part of this project's source, and one is a function when it is
    # imported: run, it is `scr.describing.command`.
    assert runnable - {"scr", "scr.methods.overloads", "scr.describe"} == set(MODULES)


def test_readme_names_commands_that_exist():
    named = set(
        re.findall(r"(?<![\w.-])scr ((?:lab )?[a-z][a-z-]+)(?= [-a-z;]|[`;])", (ROOT / "README.md").read_text())
    )
    assert {"bench", "compare", "results", "score", "report", "sweep", "calibrate", "overhead", "train"} <= named
    assert named <= set(COMMANDS), named - set(COMMANDS)


# One process for all of them, as each would cost a start of Python.
HELP = """
import contextlib, importlib, io, json, sys, time
found = []
for module, sub in json.loads(sys.argv[1]):
    start, out = time.process_time(), io.StringIO()
    with contextlib.redirect_stdout(out):
        status = importlib.import_module(module).main([*([sub] if sub else []), "--help"])
    found.append([module, sub, status, len(out.getvalue()), time.process_time() - start, sorted(sys.modules)])
print(json.dumps(found))
"""


def test_help_is_printed_at_once_and_nothing_is_run(tmp_path):
    before = {path: path.stat().st_mtime_ns for path in (ROOT / "benchmarks" / "lab").rglob("*") if path.is_file()}
    done = subprocess.run(
        [sys.executable, "-c", HELP, json.dumps(EVERY)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for module, sub, status, length, seconds, loaded in json.loads(done.stdout):
        assert status == 0, (module, sub)
        assert length > 100, (module, sub)
        assert not HEAVY & set(loaded), (module, sub)
        assert seconds < 5, (module, sub)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("module", "sub"), EVERY)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--hepl"], r"unknown argument: got '--hepl'.* Did you mean '--help'\?"),
        (["--no-such-thing="], "argument --no-such-thing: got an empty value"),
        ([""], "argument 2: got an empty value|argument 1: got an empty value"),
        (["caf\udce9"], r"got 'caf\\udce9', bytes that are no UTF-8; expected text"),
        (["a\0b"], r"got a NUL character in 'a\\x00b'"),
        (["--x", "y" * 70_000], "argument --x: got 70,000 characters; expected at most 65,536"),
    ],
)
def test_what_no_command_can_use_is_one_sentence(module, sub, wrong, message, capsys):
    assert importlib.import_module(module).main([*([sub] if sub else []), *wrong]) == 2
    out, err = capsys.readouterr()
    required = r"(the following arguments are required|argument \S+: got .*; expected one of)"
    assert out == ""
    assert re.fullmatch(rf"error: .*({message}|{required}).*\n", err), err
    if wrong != ["--hepl"]:
        assert re.search(message, err), err


VALUES = ["caf\udce9", "n" * 300, "/".join(["deep"] * 1200), "9" * 5000, "-1e999", "[" * 20_000, "{}", ",", "=", "a=\0"]


def flags(parser):
    """Each flag that takes a value, of a parser and of its sub-commands, with the words that lead to it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, one in action.choices.items():
                yield from (([name, *words], flag) for words, flag in flags(one))
        elif action.option_strings and action.nargs != 0:
            yield [], action.option_strings[-1]


@pytest.mark.parametrize("module", MODULES)
def test_every_flag_reads_what_it_is_given_or_says_so_in_a_sentence(module, capsys):
    parser = parser_of(module)
    for words, flag in flags(parser):
        for value in VALUES:
            with contextlib.suppress(SystemExit):
                parser.parse_args([*words, f"{flag}={value}"])
            out, err = capsys.readouterr()
            assert out == ""
            assert re.fullmatch(r"(error: .*\n)?", err), (words, flag, value[:20], err)
            assert len(err) < 900
            assert err or "\udce9" not in value, (words, flag)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1e999", "the number 1e999 is too large"),
        ("[1, NaN]", "NaN is no number of JSON"),
        ("-Infinity", "-Infinity is no number of JSON"),
        ("9" * 5000, "has more than 64 bits"),
        ("[" * 5000, "is nested too deep"),
    ],
)
@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("benchmarks.run", ["--method-arg", "a=VALUE"]),
        ("benchmarks.run", ["--gen-kwarg", "a=VALUE"]),
        ("benchmarks.sweep", ["--vary", "a=1,VALUE"]),
        ("benchmarks.compare", ["--method-arg", "a=VALUE"]),
        ("scr.adapters.train", ["seed", "--set", "a=VALUE"]),
    ],
)
def test_values_are_the_json_that_files_may_hold(module, words, value, message, capsys):
    assert importlib.import_module(module).main([word.replace("VALUE", value) for word in words]) == 2
    assert re.fullmatch(rf"error: argument {words[-2]}: .*{message}.*\n", capsys.readouterr().err)


def test_what_reads_as_no_json_is_text():
    for text in ("nan", "top_k", "[1", '{"a": }', "1e", "--", "1e999x", "001"):
        assert types.json_or_text(text) == text
    assert types.json_or_text('{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}


def parser_of(module):
    found = importlib.import_module(module)
    if module in ("analysis.figures", "analysis.entropy"):
        return build_parser(module, "", ANALYSES)
    return found.build_parser()


# python -m scr


def test_the_list_names_every_command(capsys):
    for asked in ([], ["--help"], ["help"]):
        assert main(asked) == 0
        out = capsys.readouterr().out
        assert all(re.search(rf"^  {name} +{re.escape(one.summary)}$", out, re.M) for name, one in COMMANDS.items())
    assert main(["lab"]) == 0
    assert "lab train" in (out := capsys.readouterr().out)
    assert "sweep" not in out


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        (["banch"], "'bench'"),
        (["lab", "trian"], "'lab train'"),
        (["lab_train"], "'lab train'"),
        (["x" * 999], "--help"),
    ],
)
def test_an_unknown_command(asked, hint, capsys):
    assert main(asked) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"error: unknown command: got .*{hint}.*\n", err), err


def test_words_and_the_version(capsys):
    assert main(["refusal_data", "--help"]) == main(["lab", "image-keep", "--help"]) == 0
    assert "benchmarks.lab.image_keep" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert re.fullmatch(r"scr-vlm \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.fixture(scope="module")
def crowded(tmp_path_factory) -> Path:
    """A folder with files of a user's that are called as this project's packages are."""
    folder = tmp_path_factory.mktemp("crowded")
    for name in ("hooks.py", "analysis.py", "benchmarks/__init__.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("raise RuntimeError('a file of the user was run')")
    return folder


@pytest.mark.parametrize("name", ["bench", "score", "report", "lab train"])
@pytest.mark.parametrize("way", ["python -m scr", "console script"])
def test_a_users_own_files_break_no_command(name, way, crowded):
    script = "import sys; from scr.command.table import main; sys.exit(main())"
    start = ["-m", "scr"] if way == "python -m scr" else ["-c", script]
    done = in_folder(crowded, *start, *name.split(), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert COMMANDS[name].module in done.stdout


def in_folder(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Python, run where the user's own modules come first."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path}
    line = [sys.executable, *command]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_every_script_begins_in_scr(crowded):
    """In `benchmarks` or `analysis` it would begin with a user's own."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert {"scr", "scr-bench", "scr-score", "scr-report"} <= set(scripts)
    # As an installer writes them, one after the other, as each would cost a start of Python.
    code = "import sys\nsys.argv[1:] = ['--help']\n" + "\n".join(
        f"from {module} import {function}\nassert {function}() == 0, {name!r}"
        for name, (module, function) in ((name, place.split(":")) for name, place in scripts.items())
    )
    done = in_folder(crowded, "-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("bench", "score", "report"):
        assert f"usage: python -m {COMMANDS[name].module}" in done.stdout


def test_a_command_runs_where_a_user_has_imported_their_own(tmp_path):
    for name in ("benchmarks", "analysis"):
        (tmp_path / f"{name}.py").write_text("MINE = 1")
    code = (
        "import analysis, benchmarks; from scr.command.table import main\n"
        "assert main(['bench', '--list', 'tasks']) == main(['report', '--help']) == 0\n"
        "assert main(['score', 'chair', '--annotations', 'no', '--captions', 'no']) == 2, 'a sentence, no fault'\n"
        "assert analysis.MINE == benchmarks.MINE == 1\n"
    )
    done = in_folder(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert "pope_adversarial" in done.stdout


@pytest.mark.parametrize("name", ["benchmarks.py", "benchmarks/__init__.py"])
def test_lab_names_are_found_where_a_user_has_benchmarks_of_their_own(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("MINE = 1")
    code = (
        "import benchmarks, pytest, scr\n"
        "from scr.adapters import find_adapter\n"
        "from scr.checkpoints.named import named_folder\n"
        "print(named_folder('model', 'lab/llava'), find_adapter('lab/refusal').config)\n"
        "with pytest.raises(scr.ModelLoadError, match=\"Did you mean 'lab/llava'\"):\n"
        "    named_folder('model', 'lab/lava')\n"
        "assert benchmarks.MINE == 1\n"
    )
    done = in_folder(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    lab = ROOT / "benchmarks" / "lab"
    assert done.stdout.split() == [
        str(lab / "checkpoints" / "llava"),
        str(lab / "adapters" / "refusal" / "adapter_config.json"),
    ]


@pytest.mark.slow
def test_torchrun_by_way_of_scr_is_safe_from_a_users_own_files(crowded):
    """As `-m benchmarks.run` cannot be: Python looks for its package in the working directory."""
    launcher = ["-P", "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "scr"]
    done = in_folder(crowded, *launcher, "bench", "--list", "tasks")
    assert done.returncode == 0, done.stderr
    assert "pope_adversarial" in done.stdout
