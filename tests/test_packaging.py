"""The wheel, installed elsewhere, runs the default command from an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built without network from a copy of what it is made of, so that no build folder is left behind."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("scr", "hooks", "benchmarks", "analysis"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-q", "-w", str(folder)]
    subprocess.run(pip, check=True, cwd=source)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_packages_and_data_but_no_tests(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in ("scr", "hooks", "benchmarks", "analysis"):
        assert f"{package}/__init__.py" in names
        assert f"{package}/py.typed" in names
    assert {
        "hooks/families/llava.py",
        "scr/methods/scr.py",
        "benchmarks/tasks/pope/task.py",
        "scr/describing/doubts/calibrations/lab/llava.json",
        "scr/describing/gallery/gallery.html",
        "scr/describing/gallery/gallery.css",
        "scr/describing/gallery/gallery.js",
        "scr/pages/look.css",
        "scr/pages/veil.js",
        "scr/reading/synonyms.txt",
        "benchmarks/lab/declared/grids/small.json",
        "benchmarks/protocol/declared/llava15-pope-chair.json",
        "benchmarks/lab/checkpoints/llava/model.safetensors",
        "benchmarks/lab/predictors/llava/predictor.safetensors",
        "benchmarks/lab/checkpoints/llava/scr.json",
        "benchmarks/lab/pictures/drawings/NOTICE",
        "benchmarks/lab/pictures/drawings/twemoji/dog_0.png",
        "analysis/page/templates/report.html",
        "analysis/page/templates/report.css",
        "analysis/page/templates/report.js",
    } <= names
    assert not any(name.startswith("tests") for name in names)


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
