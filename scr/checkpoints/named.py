"""Models, adapters and predictors with names of their own, such as `lab/llava`: packages bring them as entry points.

An entry point of the group `scr_vlm.models` is called as a name's first part, and is a function (kind, name) → folder.
It raises ValueError for an unknown name and FileNotFoundError for one that is not there, with a sentence each.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal

from ..beside import beside
from ..errors import AdapterLoadError, ConfigError, ModelLoadError, SCRError

Kind = Literal["model", "adapter", "predictor"]
GROUP = "scr_vlm.models"
_FAILURES: dict[Kind, type[SCRError]] = {
    "model": ModelLoadError,
    "adapter": AdapterLoadError,
    "predictor": ConfigError,
}
# Comes with the project; without its entry point it would be looked for on the hub.
_OURS = "lab"


def named_folder(kind: Kind, name: str) -> Path | None:
    """The folder of a model or the like that a package brings; None where the name is a hub id or a path.

    Args:
        kind: which of them.
        name: as the user gave it.

    Raises:
        ModelLoadError, AdapterLoadError, ConfigError: by the kind: if the package has none of that name, or is not
            installed.
    """
    prefix, slash, _ = name.partition("/")
    if not slash or not prefix.isidentifier():
        return None
    failure = _FAILURES[kind]
    found = entry_points(group=GROUP, name=prefix)
    if not found:
        if prefix != _OURS:
            return None
        raise failure(
            f"no {_OURS} here: got {name!r} where no entry point of {GROUP!r} is called {_OURS!r}; expected the one of "
            "scr-vlm. Install it again (pip install -e . in a checkout), or give a folder or a hub id."
        )
    try:
        entry = next(iter(found))
        locate: Callable[[Kind, str], Path] = _own(entry) if prefix == _OURS else entry.load()
        return locate(kind, name)
    except (ValueError, FileNotFoundError, ImportError, AttributeError) as error:
        raise failure(str(error)) from error


def _own(entry: EntryPoint) -> Any:
    """What an entry point of ours is, also where a user has a package that is called as ours."""
    package, _, module = entry.module.partition(".")
    return getattr(beside(package, module), entry.attr)
