"""What is distributed: the source, the wheel that is built from it, and that it runs from an empty folder."""

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import scr

ROOT = Path(__file__).parent.parent


PACKAGES = ("scr", "hooks", "benchmarks", "analysis")
BESIDE = ("README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "constraints.txt", "pyproject.toml", ".ci/run")
OURS = shutil.ignore_patterns("__pycache__", "*.egg-info")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """The source distribution, unpacked; built from a copy, so that no build folder is left behind, without network."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("sdist")
    for name in (*BESIDE, "MANIFEST.in"):
        (source / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    for name in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=OURS)
    code = f"from setuptools.build_meta import build_sdist; build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=source, capture_output=True)
    (built,) = folder.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        archive.extractall(folder, filter="data")
    return folder / built.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    """The wheel, built from the source distribution alone, in the folder where that was unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-q", "-w", str(folder)]
    subprocess.run(pip, check=True, cwd=sdist)
    (built,) = folder.glob("*.whl")
    return built


def files_of(folder: Path, *below: str) -> set[str]:
    """Files in folders of a folder, by their paths in it, without what Python and setuptools leave there."""
    passed = ("__pycache__", ".egg-info", "/build/")
    paths = (path for name in below for path in (folder / name).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in paths if not any(one in str(path) for one in passed)}


def test_the_source_distribution_is_the_checkout(sdist):
    expected = {*BESIDE, *files_of(ROOT, *PACKAGES, "tests")}
    pages = {name for name in expected if name.startswith(PACKAGES) and name.endswith(".md")}
    found = files_of(sdist, ".")
    assert expected - pages <= found, sorted(expected - pages - found)
    assert found - expected <= {"MANIFEST.in", "PKG-INFO", "setup.cfg"}


def test_the_wheel_holds_packages_and_data_but_no_tests(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = files_of(ROOT, *PACKAGES)
    missing = {name for name in sources - names if not name.endswith(".md")}
    assert not missing, sorted(missing)
    assert {"scr/py.typed", "benchmarks/lab/checkpoints/llava/model.safetensors"} <= names
    beside = {name for name in names if ".dist-info/" not in name}
    assert beside <= sources, sorted(beside - sources)


def test_the_wheel_says_what_other_tools_ask_for(wheel):
    archive = zipfile.ZipFile(wheel)
    (place,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
    declared = configparser.ConfigParser()
    declared.read_string(archive.read(place).decode())
    assert set(declared) == {"DEFAULT", "console_scripts", "scr_vlm.models", "lmms_eval.models"}
    assert not any("vllm" in section for section in declared)  # one that vLLM rejects would stop it
    names = archive.namelist()
    for section in declared.values():
        for target in section.values():
            module = target.partition(":")[0].replace(".", "/")
            assert {f"{module}.py", f"{module}/__init__.py"} & set(names), target
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_citation_and_the_changelog_are_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (cited["cff-version"], cited["type"], cited["title"]) == ("1.2.0", "software", project["name"])
    assert (cited["version"], cited["license"]) == (scr.__version__, project["license"])
    assert cited["keywords"] == project["keywords"]
    assert {"message", "authors"} <= set(cited)
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == scr.__version__
    assert len(set(versions)) == len(versions)


def test_the_wheel_runs_the_default_command_from_an_empty_folder(wheel, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "-q", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.run", "--method", "scr", "--limit", "2"],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": str(site), "SCR_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    runs = [json.loads(path.read_text()) for path in (empty / "results").rglob("run.json")]
    assert {(run["task"], run["method"]) for run in runs} == {
        (task, method)
        for task in ("pope_random", "pope_popular", "pope_adversarial", "chair")
        for method in ("none", "scr")
    }
    assert all(run["status"] == "finished" for run in runs)
    assert all(run["commit"] is None for run in runs), "an installed wheel belongs to no commit"
    where = subprocess.run(
        [
            sys.executable,
            "-c",
            "import scr.checkpoints.named; print(scr.checkpoints.named.named_folder('adapter', 'lab/refusal'))",
        ],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(site) in where.stdout
