"""The READMEs say what the registries, the recorded results and the code say."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import readmes
from PIL import Image

import scr

ROOT = Path(__file__).parent.parent
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in readmes.PAGES}
README = TEXTS["README.md"]


@pytest.mark.parametrize("page", readmes.PAGES)
def test_tables_and_findings_are_what_would_be_rendered(page):
    assert TEXTS[page] == readmes.rendered(page), "run `python tests/readmes.py`"


def test_every_table_of_a_registry_and_of_results_is_there():
    found = [
        name
        for text in TEXTS.values()
        for name in re.findall(r"<!-- ([^>]+) -->\n(?:(?!<!--).)*<!-- end -->", text, re.S)
    ]
    kinds = ["comparison", "adapters", *(one.stem for one in readmes.comparison.DECLARED.glob("smol*.json"))]
    of_results = [f"{kind}: {task}" for kind in kinds for task in readmes.results(kind)["tasks"]]
    # Two splits of POPE say of adapters what the third says: they stand in the file of results alone.
    left_out = {"adapters: pope_random", "adapters: pope_popular"}
    tables = [
        "entropy: small",
        "entropy: smol",
        "families",
        "families of the lab",
        "findings",
        "methods",
        "scorers",
        "tasks",
    ]
    tables += ["settings: grid_smol"]
    assert sorted(found) == sorted({*tables, *of_results} - left_out)


def test_a_newcomer_finishes_it():
    assert len(README.splitlines()) <= 200


def test_every_number_is_rendered_or_a_fact_of_the_project():
    prose = re.sub(r"<!-- findings -->.*?<!-- end -->|```.*?```|\]\([^)]*\)", "", README, flags=re.DOTALL)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11"
    assert any(one.startswith("transformers>=5.") for one in project["dependencies"])
    assert project["license"] == "Apache-2.0"
    from scr.command.guard import DONE, FAILED, INTERRUPTED, UNUSABLE

    known = {"3.11", "5", "2.0", "4", *(str(code) for code in (DONE, FAILED, INTERRUPTED, UNUSABLE))}
    assert set(re.findall(r"(?<![\w.])\d+(?:\.\d+)*(?!\w)", prose)) <= known


@pytest.mark.parametrize("page", readmes.PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", TEXTS[page]):
        path, _, anchor = target.partition("#")
        there = ((ROOT / page).parent / path).resolve()
        assert there.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}, target


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
    """All blocks of all pages, one after the other in one session, on a lab model."""
    lab = ROOT / "benchmarks" / "lab"
    stand_ins = {
        "llava-hf/llava-1.5-7b-hf": str(lab / "checkpoints" / "llava"),
        "path/or/hub-id": str(lab / "adapters" / "refusal"),
    }
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (96, 96), "teal").save("kitchen.jpg")
    session: dict[str, object] = {}
    blocks = [
        block
        for text in TEXTS.values()
        for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    ]
    printed = []
    for block in blocks:
        for name, stand_in in stand_ins.items():
            block = block.replace(name, stand_in)
        exec(compile(block, "README.md", "exec"), session)
        printed.append(capsys.readouterr().out)
    assert len(blocks) >= 3
    answer, entropy = printed[0].rsplit(maxsplit=1)
    assert answer.split()[0] in ("Yes", "No")
    assert not re.search("USER|ASSISTANT|<", answer)
    assert 0 < float(entropy) < 5
    assert (tmp_path / "merged" / "model.safetensors").exists()


def commands() -> set[tuple[str, ...]]:
    """(module, words of sub-commands) of every command that a page names, by its module or through `scr`."""
    from scr.command.table import COMMANDS

    has_some = (
        "benchmarks.score",
        "benchmarks.calibrate",
        "benchmarks.results",
        "benchmarks.protocol",
        "scr.adapters.train",
        "benchmarks.lab.adapt",
        "benchmarks.lab.smol",
        "scr.onepass",
    )
    found: set[tuple[str, ...]] = set()
    for text in TEXTS.values():
        for command, sub in re.findall(r"python -m ((?:benchmarks|analysis|scr)(?:\.\w+)+)( [a-z][a-z-]*)?", text):
            # A word after it is a sub-command where the command has some, else the next word of a sentence.
            found.add((command, *([sub.strip()] if sub and command in has_some and sub.strip() != "and" else [])))
        for block in re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            for words in re.findall(r"(?:^|[;&] )scr ([a-z -]+)", block, re.MULTILINE):
                name = next(one for one in sorted(COMMANDS, key=len, reverse=True) if f"{words} ".startswith(f"{one} "))
                found.add((COMMANDS[name].module,))
    return found


def test_commands_and_flags_that_are_named_exist():
    known = ""
    for words in sorted(commands()):
        done = subprocess.run(
            [sys.executable, "-m", *words, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        known += done.stdout
    of_lmms_eval, of_vllm = {"--log-samples", "--output-path"}, {"--logits-processors"}
    others = {"--no-deps", "--dist", "--nproc-per-node", "--help", "--model-args", *of_lmms_eval, *of_vllm}
    flags = {flag.replace("_", "-") for text in TEXTS.values() for flag in re.findall(r"(?<!-)--[a-z][a-z_-]+", text)}
    for flag in sorted(flags - others):
        assert flag in known, flag


@pytest.mark.parametrize("path", [*readmes.PAGES, "pyproject.toml", "constraints.txt", ".ci/run"])
def test_no_machine_and_no_registry_is_named(path):
    text = (ROOT / path).read_text()
    assert not re.search(r"https?://|/(?:work|root|tmp|home)/", text)


def test_methods_and_families_are_all_of_the_tables():
    for name in scr.list_methods():
        assert f"| `{name}` |" in TEXTS["scr/README.md"]
    for name in scr.list_families():
        assert f"| `{name}` |" in TEXTS["scr/README.md"]
