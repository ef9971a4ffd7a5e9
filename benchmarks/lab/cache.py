"""Where the lab keeps what it makes or fetches once, and how a folder appears there: whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

__all__ = ["cache_root", "made_once"]


def cache_root() -> Path:
    """Where it is: `$SCR_CACHE`, else `scr-vlm` below `$XDG_CACHE_HOME` or `~/.cache`; perhaps no folder."""
    if os.environ.get("SCR_CACHE"):
        return Path(os.environ["SCR_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scr-vlm"


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return a folder, made where it is not there yet; it appears when all of it is on the disk.

    One process makes it while others wait. What a kill left behind is no folder of that name, and goes at the next try.

    Args:
        folder: where it is to be.
        make: is given an empty folder beside it and fills it; if it fails nothing is left.
    """
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # A file in place of the system's lock would stay after a kill.
    lock = folder.parent / f".{folder.name}.lock"
    with FileLock(lock, fallback_to_soft=False):
        if folder.exists():
            return folder
        prefix = f".{folder.name}-"
        for left in folder.parent.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=prefix) as scratch:
            place = Path(scratch) / "made"
            place.mkdir()
            make(place)
            for path in place.rglob("*"):
                _to_disk(path)
            place.rename(folder)
        # Whoever waits for it, or makes another, finds the folder and needs no lock any more.
        with contextlib.suppress(PermissionError):  # Windows deletes no open file
            lock.unlink(missing_ok=True)
    return folder


def _to_disk(path: Path) -> None:
    if path.is_file():
        with contextlib.suppress(OSError), path.open("rb") as file:  # not every file system can
            os.fsync(file.fileno())
