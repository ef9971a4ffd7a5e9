"""How each run was made, for a reader who was not there: settings, versions, commands; no folder of any machine."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .load import Run, flat_config, model_labels, row_labels, short_value

_LEFT_OUT = {"metrics", "intervals", "reasons", "units", "timing", "counts", "schema", "config_given", "readout"}
# Two parts at least, and nothing before the first slash that makes it a part of a name, a web address or a fraction.
_PATH = re.compile(r"(?<![\w.:/~-])~?(?:/[^\s/'\",;:)\]}]+){2,}/?")


class Provenance(NamedTuple):
    """One run.

    Attributes:
        title: model, task and row.
        fields: name → value as text.
        config: name → value of the method's effective configuration; those that the user gave end in "(given)".
        packages: name → version.
    """

    title: str
    fields: dict[str, str]
    config: dict[str, str]
    packages: dict[str, str]


def provenance(runs: Sequence[Run]) -> list[Provenance]:
    """How each run was made, in the order of the runs."""
    models, rows = model_labels(runs), row_labels(runs)
    found = []
    for run in runs:
        record = run.record.to_dict()
        given = flat_config(run.record.config_given)
        fields = {
            name.replace("_", " "): without_folders(_text(value))
            for name, value in record.items()
            if name not in {*_LEFT_OUT, "config", "packages"} and value is not None
        }
        found.append(
            Provenance(
                title=f"{models[run.model]}, {run.record.task}, {rows[run.folder]}",
                fields={**fields, "samples": str(len(run.samples))},
                config={
                    name: without_folders(short_value(value)) + (" (given)" if name in given else "")
                    for name, value in flat_config(run.record.config).items()
                },
                packages=dict(run.record.packages),
            )
        )
    return found


def without_folders(text: str, root: Path | None = None) -> str:
    """The text with each absolute path cut to "…/" and its last part.

    Args:
        text: what may name paths.
        root: the folder of results, which is cut to its own name first, so that a run below it can still be told.
    """
    if root is not None:
        text = text.replace(f"{root}/", f"{root.name or 'results'}/")
    return _PATH.sub(lambda found: f"…/{found.group().rstrip('/').rpartition('/')[2]}", text)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={short_value(one)}" for name, one in value.items()) or "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
