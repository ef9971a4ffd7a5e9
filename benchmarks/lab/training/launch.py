"""Trainings of the lab begin in a process with the settings of memory and threads that they are fast with."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

LAUNCH_ENVIRONMENT = {
    # Without them glibc gives the memory of every step back to the system and faults it in again.
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
    # Threads that spin while they wait take a shared machine's time from the thread they wait for.
    "OMP_WAIT_POLICY": "PASSIVE",
}


def start_anew(command: str, given: Sequence[str]) -> None:
    """Replace this process by one of the same command with that environment, which is read at start-up.

    Nothing happens where the environment is there already, and on systems without glibc.

    Args:
        command: a module of `benchmarks.lab`.
        given: its arguments.
    """
    if sys.platform != "linux" or all(os.environ.get(name) == value for name, value in LAUNCH_ENVIRONMENT.items()):
        return
    # The working directory may hold a `benchmarks` of the user's: -P keeps it off the path.
    root = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    again = [sys.executable, "-P", "-m", f"benchmarks.lab.{command}", *given]
    os.execve(sys.executable, again, os.environ | LAUNCH_ENVIRONMENT | {"PYTHONPATH": path})
