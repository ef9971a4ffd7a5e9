"""Who may import whom: the folders' rules, read from the source; and what importing costs."""

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hooks
import scr
from scr.methods.overloads import END, PLACE, START

ROOT = Path(__file__).parent.parent
FOLDERS = ("hooks", "scr", "benchmarks", "analysis")
# How every command reads its arguments and ends: free of torch, and of what the project is about.
COMMANDS = {"scr.command.types", "scr.command.parser", "scr.command.guard"}
MAY_IMPORT = {
    "hooks": set(),
    "scr": {"hooks"},
    "benchmarks": {"scr"},
    "analysis": {
        "benchmarks.records",
        "benchmarks.store",
        "benchmarks.stats",
        "scr.files",
        "scr.errors",
        "scr.beside",
        "scr.describing.gallery.records",
        "scr.pages.embedding",
        "scr.pages.escaping",
        "scr.pages.veil",
        *COMMANDS,
    },
}
# (importer, imported) → the one file that finds ours beside it, where a user has a module of that name.
FINDERS = {("scr", "hooks"): "scr/_hooks.py", ("analysis", "benchmarks"): "analysis/_benchmarks.py"}
THIRD_PARTY = {
    "hooks": {"torch", "transformers", "jaxtyping"},
    "scr": set(
        "torch transformers safetensors jaxtyping peft PIL tqdm matplotlib huggingface_hub bitsandbytes nltk "
        "textblob filelock accelerate lmms_eval vllm ray".split()
    ),
    "benchmarks": set(
        "torch transformers accelerate PIL numpy scipy pycocotools tqdm rich nltk textblob safetensors tokenizers "
        "matplotlib filelock peft".split()
    ),
    "analysis": set("numpy scipy matplotlib PIL jinja2".split()),
}
# Of another folder: names of its __init__, and these modules, which are public.
PUBLIC_MODULES = {
    "scr.redistribution",
    "scr.credit",
    "scr.contrast",
    "scr.perturb",
    "scr.fields",
    "scr.adapters",
    "scr.describing",
    "scr.onepass.report",
    "scr.reading",
    "scr.steering",
    "scr.checkpoints",
    "scr.checkpoints.digests",
    "scr.checkpoints.loading",
    "scr.checkpoints.settings",
    "scr.command.progress",
    "scr.storing.lines",
    "scr.storing.locks",
    *MAY_IMPORT["analysis"],
}
ONLY_STANDARD_LIBRARY = {
    "scr/patching/baseline.py",
    "scr/beside.py",
    "scr/errors.py",
    "scr/fields.py",
    "scr/kinds.py",
    "scr/files.py",
    "scr/__main__.py",
    "scr/command/types.py",
    "scr/command/table.py",
    "scr/command/guard.py",
    "benchmarks/__init__.py",
    "benchmarks/tasks/__init__.py",
    "benchmarks/records.py",
    "benchmarks/hashing.py",
    "benchmarks/store.py",
}


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, whether it is imported relatively) of every import in a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, False) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", node.level > 0))
    return found


# Commands: they parse flags and call the rooms; what a command does is found in a room, so that nobody imports one.
RUN_BY_HAND = {
    "benchmarks": set("run score compare sweep calibrate doubts refusal_data results notebook".split()),
    "analysis": set("report figures marks".split()),
}


def module_of(path: Path) -> str:
    """The name of the module in a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def links(folder: str) -> dict[str, set[str]]:
    """Module of a folder → those of it that it imports, inside functions and under TYPE_CHECKING too."""
    files = {module_of(path): path for path in FILES if path.relative_to(ROOT).parts[0] == folder}
    found: dict[str, set[str]] = {}
    for name, path in files.items():
        here = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = ".".join([*here[: len(here) - node.level + 1], *filter(None, [node.module])])
                whole = {f"{base}.{alias.name}" for alias in node.names}
                found[name] |= {one if one in files else base for one in whole} - {name}
    return found


def circles(links: dict[str, set[str]]) -> list[set[str]]:
    """Groups of names each of which leads to every other one of its group."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        ahead = set(links[start])
        while ahead:
            name = ahead.pop()
            seen.add(name)
            ahead |= links[name] - seen
        return seen

    far = {name: reached(name) for name in links}
    found = []
    for name in links:
        group = {other for other in far[name] if name in far[other]}
        if group and group not in found:
            found.append(group)
    return found


def room_of(module: str) -> str:
    """The folder that a module lies in, below its package; the lab has rooms of its own, below its models and data."""
    parts = module.split(".")
    return ".".join(parts[: 3 if parts[1:2] == ["lab"] else 2])


FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_import_rules(path):
    name = str(path.relative_to(ROOT))
    folder = path.relative_to(ROOT).parts[0]
    for module, relative in imports(path):
        if relative:
            continue
        top = module.partition(".")[0]
        if top == folder:
            pytest.fail(f"{name}: import {module} relatively, it is in the same folder")
        elif top in FOLDERS:
            finder = FINDERS.get((folder, top))
            assert finder in (None, name), f"{name}: import from {finder}, not from {module}"
            assert top in MAY_IMPORT[folder] or module in MAY_IMPORT[folder], f"{name} may not import {module}"
            assert module == top or module in PUBLIC_MODULES, f"{name}: import from `{top}` itself, not {module}"
        elif top not in sys.stdlib_module_names:
            assert top in THIRD_PARTY[folder], f"{name} may not import {module}"
            assert name not in ONLY_STANDARD_LIBRARY, f"{name} may import the standard library only, not {module}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_modules_import_each_other_in_a_circle(folder):
    assert circles(links(folder)) == []


@pytest.mark.parametrize("folder", ["benchmarks", "analysis"])
def test_no_rooms_import_each_other_in_a_circle(folder):
    rooms: dict[str, set[str]] = {}
    for name, others in links(folder).items():
        rooms.setdefault(room_of(name), set()).update(room_of(other) for other in others)
    rooms = {name: others - {name, folder} for name, others in rooms.items()}
    assert len(rooms) > 10
    assert circles(rooms) == []


@pytest.mark.parametrize("folder", RUN_BY_HAND)
def test_commands_hold_commands_and_nothing_else(folder):
    commands = {f"{folder}.{name}" for name in RUN_BY_HAND[folder]}
    for name, others in links(folder).items():
        assert name in commands or not others & commands, f"{name}: what it needs of a command belongs into a room"


def test_circles_are_found_wherever_an_import_stands():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}}) == [{"b", "c"}, {"d"}]
    found = links("benchmarks")
    assert "benchmarks.studies.sweeps" in found["benchmarks.sweep"], "inside a function, and under TYPE_CHECKING"
    assert "benchmarks.tasks.base" in found["benchmarks.tasks"]


def test_files_stay_small():
    long = {}
    for path in FILES:
        text = path.read_text()
        if path == PLACE:  # a part of it is made from the table of methods
            text = text.split(START)[0] + text.split(END)[1]
        long |= {str(path): count for count in [len(text.splitlines())] if count > 400}
    assert not long


@pytest.mark.parametrize("name", ["suggestion", "BASELINE", "guarded", "Parser", "DONE"])
def test_there_is_one_of_each(name):
    """What all packages share is written once; the others import it."""
    homes = []
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            made = [getattr(node, "name", None)]
            if isinstance(node, ast.Assign):
                made = [one.id for target in node.targets for one in ast.walk(target) if isinstance(one, ast.Name)]
            homes += [path.name] * (name in made)
    assert len(homes) == 1, homes


def test_the_tables_and_records_load_without_torch():
    code = (
        "import sys; import benchmarks, benchmarks.tasks, benchmarks.records, benchmarks.store, benchmarks.stats;"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_public_faces_load_without_torch():
    code = (
        "import sys; import scr, scr.adapters, scr.files; from scr import ConfigError; from hooks import suggestion;"
        "sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("package", ["hooks", "scr", "scr.adapters", "scr.describing", "scr.reading"])
def test_what_is_imported_on_demand_is_what_a_type_checker_sees(package):
    module = importlib.import_module(package)
    block = next(
        node.body
        for node in ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = set()
    for node in block:
        home = importlib.import_module("." * node.level + (node.module or ""), package)
        for alias in node.names:
            seen.add(alias.name)
            assert getattr(module, alias.name) is getattr(home, alias.name)
    assert seen <= set(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert hooks.on_demand("scr")("ConfigError") is scr.ConfigError
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        _ = module.missing


def test_importing_changes_nothing():
    """No seed, no warning filter, no attention function, no environment variable."""
    code = (
        "import os, warnings, torch, transformers\n"
        "from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as attention\n"
        "def state():\n"
        "    return torch.random.get_rng_state().tolist(), list(warnings.filters), list(attention), dict(os.environ)\n"
        "before = state()\n"
        "import scr, hooks, benchmarks.run\n"
        "assert state() == before\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


USERS_OWN = {
    "a module": {"hooks.py": "MINE = 1"},
    "all of them": {
        "hooks/__init__.py": "from .sub import MINE",
        "hooks/sub.py": "MINE = 1",
        "benchmarks/__init__.py": "MINE = 1",
        "benchmarks/records.py": "MINE = 1",
        "analysis.py": "MINE = 1",
    },
}
SCRIPT = """
import importlib, pickle, sys
sys.path.append(sys.argv[1])  # the folder of tests
theirs = {name: importlib.import_module(name) for name in sys.argv[2:]} if FIRST else {}
import torch
from tiny import inputs_for, tiny_llava
import scr
theirs = theirs or {name: importlib.import_module(name) for name in sys.argv[2:]}
assert [module.MINE for module in theirs.values()] == [1] * len(theirs)
model, processor = tiny_llava()
with scr.patch(model) as patched:
    model.generate(**inputs_for(processor, [("USER: <image> is there a dog ?", [1])]), max_new_tokens=1)
(trace,) = patched.traces
assert pickle.loads(pickle.dumps(trace)).grids == trace.grids
assert type(pickle.loads(pickle.dumps(scr.PromptLayoutError("word")))) is scr.PromptLayoutError
assert isinstance(scr.get_family("llava"), scr.ModelFamily)
assert scr.ConfigError.__mro__[1] is scr.SCRError
"""


@pytest.mark.parametrize(("kind", "order"), [("a module", "first"), ("all of them", "last")])
def test_a_users_own_modules_of_our_names_are_theirs(tmp_path, kind, order):
    for name, text in USERS_OWN[kind].items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "script.py").write_text(SCRIPT.replace("FIRST", str(order == "first")))
    names = sorted({name.partition("/")[0].removesuffix(".py") for name in USERS_OWN[kind]})
    command = [sys.executable, str(tmp_path / "script.py"), str(ROOT / "tests"), *names]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("order", ["first", "last"])
def test_analysis_reads_records_where_a_user_has_benchmarks_of_their_own(tmp_path, order):
    (tmp_path / "benchmarks.py").write_text("MINE = 1")
    (tmp_path / "hooks.py").write_text("MINE = 1")
    imports = ["import benchmarks, hooks", "import analysis"]
    (tmp_path / "script.py").write_text(
        "\n".join(imports if order == "first" else reversed(imports))
        + "\nimport pickle, analysis.reading.load, analysis.drawing.tables, analysis.reading.rows\n"
        "assert benchmarks.MINE == hooks.MINE == 1\n"
        "run = analysis.reading.load.SampleRecord(id='1', image='a', prompt='Is it?', target='yes', output='yes')\n"
        "assert pickle.loads(pickle.dumps(run)) == run\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_hooks_are_one_package_where_nobody_else_has_one():
    code = "import sys, scr, hooks; assert sys.modules['scr._hooks'] is hooks and scr.ModelFamily is hooks.ModelFamily"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_is_imported_is_installed_with_the_project():
    """With the names of its packages; the transitive ones are transformers' own."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = {line.partition(">=")[0] for line in project["dependencies"]}
    transitive, asked_for = {"huggingface_hub", "tokenizers"}, {"peft", "bitsandbytes", "ray"}
    tools = {"lmms_eval", "vllm"}  # which import us
    imported = set().union(*THIRD_PARTY.values()) - transitive - asked_for - tools
    assert {{"PIL": "pillow"}.get(name, name) for name in imported} <= core
    extras = project["optional-dependencies"]
    assert (extras["plots"], extras["analysis"], extras["adapters"]) == ([], [], ["peft>=0.20"])


def test_tests_that_are_cited_are_there():
    for path in (ROOT / "pyproject.toml", *ROOT.glob("*.md"), *FILES, *(ROOT / "tests").glob("*.py")):
        for name in re.findall(r"\btests/(\w+\.py)\b", path.read_text()):
            assert (ROOT / "tests" / name).is_file(), f"{path.name} cites tests/{name}"
