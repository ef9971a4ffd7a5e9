"""The floors of pyproject.toml are true: they install together, and what a user does first works on them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Each patches, generates, scores, loads an adapter or draws: what the packages with floors are for.
SMOKE = ("test_generate.py", "test_adapters.py", "test_chair.py", "test_chair_wordnet.py", "test_analysis_report.py")
EXTRAS = ("adapters", "plots", "analysis", "demo", "lab", "dev")
TOOLS = {"ruff", "mypy"}  # they check the source, whatever it runs on


def floors() -> dict[str, str]:
    """Package → its floor, of the dependencies and of the extras that the tests need; of two, the higher."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: dict[str, str] = {}
    for line in (*project["dependencies"], *(one for name in EXTRAS for one in project["optional-dependencies"][name])):
        name, floor = re.fullmatch(r"([\w-]+)>=([\d.]+)", line).groups()
        found[name] = max(floor, found.get(name, "0"), key=lambda text: [int(part) for part in text.split(".")])
    return {name: floor for name, floor in found.items() if name not in TOOLS}


def test_every_dependency_has_a_floor_and_every_extra_is_known():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"torch", "transformers", "peft", "matplotlib", "pytest"} <= floors().keys()
    assert set(project["optional-dependencies"]) - set(EXTRAS) == {"browser", "ray"}


@pytest.mark.slow
def test_the_floors_install_together_and_work(tmp_path):
    """Downloads some 3 GB: the wheels of torch's floor have CUDA with them."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    pinned = [f"{name}=={floor}" for name, floor in floors().items()]
    install = [str(python), "-m", "pip", "install", "-q", "--no-cache-dir", *pinned]
    subprocess.run(install, check=True, env={**os.environ, "TMPDIR": str(tmp_path)})
    # A floor's warnings about packages that came after it are no faults of ours.
    tests = [str(ROOT / "tests" / name) for name in SMOKE]
    done = subprocess.run(
        [str(python), "-m", "pytest", "-o", "filterwarnings=default", *tests],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
