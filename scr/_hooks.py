"""The package `hooks` that lies beside `scr`, whatever else is called `hooks` where a script runs.

Where Python would import a user's own hooks.py, ours is loaded under the name of this module, and `import hooks` gives
the user theirs. Everything in scr imports hooks from here.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hooks import *  # noqa: F403

_OURS = Path(__file__).resolve().parent.parent / "hooks" / "__init__.py"


def _load() -> ModuleType:
    try:
        found = importlib.util.find_spec("hooks")
    except ValueError:  # a module without a specification, such as a user's script that was loaded as one
        found = None
    if found is not None and found.origin is not None and Path(found.origin).resolve() == _OURS:
        return importlib.import_module("hooks")
    spec = importlib.util.spec_from_file_location(__name__, _OURS, submodule_search_locations=[str(_OURS.parent)])
    if spec is None or spec.loader is None or not _OURS.is_file():
        raise ImportError(
            f"a part of scr-vlm is missing: got no {_OURS}; expected the package hooks. Install it again."
        )
    module = importlib.util.module_from_spec(spec)
    # Before it runs: its own relative imports look for it there.
    sys.modules[__name__] = module
    spec.loader.exec_module(module)
    return module


sys.modules[__name__] = _load()
