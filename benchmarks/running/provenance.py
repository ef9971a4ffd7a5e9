"""Where numbers come from: commit, versions and command of a run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

DISTRIBUTION = "scr-vlm"
_SOURCES = ("scr", "hooks", "benchmarks", "analysis", "pyproject.toml")
_PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "safetensors", "numpy", "scipy", "pillow")


class Commit(NamedTuple):
    """State of the project's own checkout; both None outside of one.

    Attributes:
        commit: full hash of HEAD.
        dirty: whether a source file differs from HEAD, new files included.
    """

    commit: str | None
    dirty: bool | None


def checkout_state(root: Path | None = None) -> Commit:
    """The commit that the running code belongs to, and whether it was changed since.

    Installed as a wheel, the code lies in a folder that may well be inside some other repository; so only a
    checkout whose top is `root` and whose pyproject.toml names this project counts.

    Args:
        root: folder that holds the four packages; None takes the one that this file was imported from.
    """
    root = root if root is not None else Path(__file__).resolve().parents[2]
    if not _is_own_checkout(root):
        return Commit(None, None)
    commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    if not commit:
        return Commit(None, None)
    changes = _git(root, "status", "--porcelain", "--untracked-files=normal", "--", *_SOURCES)
    return Commit(commit.strip(), None if changes is None else bool(changes.strip()))


def package_versions() -> dict[str, str]:
    """Versions of Python, of this project and of the packages that can change a number."""
    from scr import __version__  # here, so that asking for the commit alone does not import torch

    versions = {"python": platform.python_version(), DISTRIBUTION: __version__}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def command_line(arguments: Sequence[str], module: str = "benchmarks.run") -> str:
    """The command that repeats a run, quoted for a shell."""
    return shlex.join(["python", "-m", module, *arguments])


def timestamp() -> str:
    """Now, in UTC, as ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _is_own_checkout(root: Path) -> bool:
    project = root / "pyproject.toml"
    if not (root / ".git").exists() or not project.is_file():
        return False
    try:
        name = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {}).get("name")
    except (OSError, tomllib.TOMLDecodeError):
        return False
    top = _git(root, "rev-parse", "--show-toplevel")
    return name == DISTRIBUTION and top is not None and Path(top.strip()).resolve() == root.resolve()


def _git(root: Path, *arguments: str) -> str | None:
    """Output of a git command, None if it failed or there is no git."""
    # Inside a git hook these variables point git at another repository than the folder it is asked about.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
