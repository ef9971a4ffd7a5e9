"""What a folder holds from an earlier run: its parts stay, where machine and model are the same. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scr.errors import ConfigError
from scr.files import read_json

RESULTS_FILE = "gpu_check.json"
_EACH_RUN = ("load", "created")  # of a machine: another in every run


def with_earlier(folder: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    """What was found, with the parts that lie in a folder and were not measured anew.

    A part replaces one of its name, but one that was skipped replaces none that was measured.

    Args:
        folder: where results go.
        found: what `benchmarks.gpu_check.command.check` has so far.

    Raises:
        ConfigError: if the folder holds results of another machine, model or version, or something else.
        DataFileError: if they cannot be read.
    """
    path = folder / RESULTS_FILE
    there = read_json(path) if path.is_file() else {**found, "parts": []}
    if not isinstance(there, Mapping) or not {"machine", "model_line", "parts"} <= set(there):
        raise ConfigError(f"results of another form: got {path}; expected what this wrote. Give another --output.")
    earlier, now = _origin(there), _origin(found)
    if others := [name for name in {**earlier, **now} if earlier.get(name) != now.get(name)]:
        got, wanted = ({name: of.get(name) for name in others} for of in (earlier, now))
        raise ConfigError(
            f"results of another machine, model or version: got {got} in {path}; expected {wanted}. Give another "
            "--output."
        )
    parts = {part["part"]: part for part in there["parts"]}
    for part in found["parts"]:
        if "skipped" not in part or "rows" not in parts.get(part["part"], {}):
            parts[part["part"]] = part
    return {**found, "parts": list(parts.values())}


def _origin(found: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs share whose numbers may stand in one table."""
    machine = {name: value for name, value in found["machine"].items() if name not in _EACH_RUN}
    return {**machine, "model": found["model_line"]}
