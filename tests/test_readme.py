"""README says what the registries and the code say."""

import argparse
import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import scr
from benchmarks.tasks import SCORERS, TASKS, load_scorer, load_task

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def table(marker: str) -> list[list[str]]:
    """Rows of the first table after `<!-- marker -->`, its head and rule left out."""
    after = README.split(f"<!-- {marker} -->", 1)[1]
    lines = re.search(r"((?:^\|.*\|\n)+)", after, re.MULTILINE).group(1).splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_methods():
    expected = [
        [f"`{name}`", entry.summary, ", ".join(entry.requires), entry.paper]
        for name, entry in ((name, scr.get_method(name)) for name in scr.list_methods())
    ]
    assert table("methods") == expected


def test_families():
    expected = []
    for name in scr.list_families():
        family = scr.get_family(name)
        edited, read = (f"{blocks.start}–{blocks.stop - 1}" for blocks in (family.edit_layers, family.attention_layers))
        expected.append(
            [f"`{name}`", family.summary, ", ".join(f"`{kind}`" for kind in family.model_types), edited, read]
        )
    assert table("families") == expected


def test_tasks():
    expected = []
    for name in TASKS:
        task = load_task(name)
        expected.append([f"`{name}`", task.kind.replace("_", "/"), f"`{task.rule}`", str(task.version), task.paper])
    assert table("tasks") == expected


def test_scorers():
    expected = []
    for name in SCORERS:
        scorer, parser = load_scorer(name), argparse.ArgumentParser()
        scorer.add_arguments(parser)
        rules = next((action.choices for action in parser._actions if action.dest == "rule"), None)
        expected.append([f"`{name}`", ", ".join(f"`{rule}`" for rule in rules) if rules else "–", scorer.summary])
    assert table("scorers") == expected


def test_the_commands_are_what_ci_runs():
    script = (ROOT / ".ci" / "run").read_text()
    for name in ("run", "test"):
        block = README.split(f"<!-- command: {name} -->", 1)[1].split("```")[1]
        assert sum(line.startswith("python3 -m venv") for line in block.splitlines()) == 1
        assert f'"$(readme_command {name})"' in script


def test_the_twelve_line_example_compiles_and_is_twelve_lines():
    code = README.split("## Twelve lines", 1)[1].split("```python\n", 1)[1].split("```", 1)[0]
    compile(code, "README", "exec")
    assert len([line for line in code.splitlines() if line.strip()]) == 12


@pytest.mark.usefixtures("one_thread")
def test_its_python_runs(tmp_path, monkeypatch, capsys):
    """All blocks, one after the other in one session, on a lab model."""
    lab = ROOT / "benchmarks" / "lab"
    stand_ins = {
        "llava-hf/llava-1.5-7b-hf": str(lab / "checkpoints" / "llava"),
        "path/or/hub-id": str(lab / "adapters" / "refusal"),
    }
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (96, 96), "teal").save("kitchen.jpg")
    session: dict[str, object] = {}
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    for block in blocks:
        for name, stand_in in stand_ins.items():
            block = block.replace(name, stand_in)
        exec(compile(block, "README.md", "exec"), session)
    assert len(blocks) >= 3
    answer, entropy = capsys.readouterr().out.rsplit(maxsplit=1)
    assert answer.split()[0] in ("Yes", "No")
    assert not re.search("USER|ASSISTANT|<", answer)
    assert 0 < float(entropy) < 5
    assert (tmp_path / "merged" / "model.safetensors").exists()


def test_flags_named_in_the_readme_exist():
    known = ""
    pattern = r"python -m ((?:benchmarks|analysis|scr)(?:\.\w+)+)( [a-z][a-z-]*)?"
    for command, sub in sorted(set(re.findall(pattern, README))):
        # A word after it that is no flag is a sub-command where the command has some, else the next word of a sentence.
        has_some = command in ("benchmarks.score", "benchmarks.calibrate", "benchmarks.results", "scr.adapters.train")
        words = [command, sub.strip()] if sub and has_some else [command]
        done = subprocess.run(
            [sys.executable, "-m", *words, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        known += done.stdout
    for flag in sorted(set(re.findall(r"(?<!-)--[a-z][a-z-]+", README)) - {"--no-deps", "--nproc-per-node"}):
        assert flag in known, flag


@pytest.mark.parametrize("path", ["README.md", "pyproject.toml", "constraints.txt", ".ci/run"])
def test_no_machine_and_no_registry_is_named(path):
    text = (ROOT / path).read_text()
    assert not re.search(r"https?://|/(?:work|root|tmp|home)/", text)


def test_the_correlations_are_those_of_the_findings():
    def cell(name: str, scope: str) -> str:
        with (ROOT / "benchmarks" / "lab" / "findings" / f"{name}_correlation.csv").open() as file:
            row = next(one for one in csv.DictReader(file) if (one["scope"], one["kind"]) == (scope, "Pearson"))
        r, low, high = (float(row[key]) for key in ("r", "r_low", "r_high"))
        return f"{r:+.2f} ({low:+.2f} … {high:+.2f})"

    for scope in ("lab/llava", "lab/qwen2_vl", "lab/internvl", "pooled", "within models"):
        cells = [cell(name, scope) for name in ("entropy", "credit_entropy_gradients", "credit_entropy_norms")]
        assert f"| {scope} | {' | '.join(cells)} |" in README
