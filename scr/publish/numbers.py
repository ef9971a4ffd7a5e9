"""What a folder of results says of a method as it is published: its own fields, beside the unpatched model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..files import read_json
from ..methods import MethodConfig
from ..patching.baseline import BASELINE
from .travelling import Published

_SAME = (
    "task task_version rule data_sha256 model revision dtype adapter prompt limit seed generation"  # of both runs
).split()


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A run of the method and one of the unpatched model, on the same samples; records as `benchmarks.run` has them."""

    baseline: Mapping[str, Any]
    method: Mapping[str, Any]


def measured(folder: Path, what: Published) -> list[Measured]:
    """The finished runs with just these fields that have the unpatched model beside them, by task and model.

    Args:
        folder: what `--output-dir` of `benchmarks.run` named.
        what: the method; a field that is None may have been filled in by the model's family.

    Raises:
        ConfigError: if there are none.
        DataFileError: for a record that cannot be read.
    """
    runs = [run for path in sorted(folder.rglob("run.json")) if _is_finished(run := read_json(path))]
    own = [run for run in runs if run["method"] == what.method and _is_of(run, what)]
    found = [
        Measured(baseline=base, method=run)
        for run in own
        for base in runs
        if base["method"] == BASELINE and all(base.get(name) == run.get(name) for name in _SAME)
    ]
    if not found:
        raise ConfigError(
            f"nothing measured: got {folder} with {len(runs)} finished runs, {len(own)} of them of {what.method} with "
            "these fields; expected some, with the unpatched model beside them. Run `python -m benchmarks.run --method "
            f"{what.method}` with these fields, or leave --results out."
        )
    return found


def _is_finished(run: Any) -> bool:
    return isinstance(run, dict) and run.get("status") == "finished" and {"method", "config", "metrics"} <= run.keys()


def _is_of(run: Mapping[str, Any], what: Published) -> bool:
    """Whether a run's effective configuration is the published one, but for what the family filled in."""
    recorded, given = (
        found if len(what.configs) > 1 else {what.method: found}
        for found in (run["config"], run.get("config_given") or {})
    )
    return all(
        _is_filled_in(config, name, given.get(part, {})) or recorded.get(part, {}).get(name) == value
        for part, config in what.configs.items()
        for name, value in config.to_dict().items()
    )


def _is_filled_in(config: MethodConfig, name: str, given: Mapping[str, Any]) -> bool:
    """Whether a field is left to the model's family, here and in the run: what a run was given is that run's own."""
    return getattr(config, name) is None and getattr(type(config), name, "") is None and name not in given
