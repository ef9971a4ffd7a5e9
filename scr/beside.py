"""The packages of this project that lie beside `scr`, whatever else is called as they are where a script runs.

Where Python would import a user's own benchmarks.py, ours is loaded under a name inside `scr`, and `import benchmarks`
gives the user theirs. Standard library only.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

_ROOT = Path(__file__).resolve().parent.parent


def beside(package: str, module: str = "") -> ModuleType:
    """Our package, or a module in it.

    Args:
        package: its name.
        module: the module, as "running.plan".

    Raises:
        ImportError: where it is not installed.
    """
    home = _home(package)
    return importlib.import_module(f"{home}.{module}" if module else home)


def _home(package: str) -> str:
    """The name under which our package is imported."""
    place = _ROOT / package / "__init__.py"
    try:
        found = importlib.util.find_spec(package)
    except ValueError:  # a module without a specification, such as a user's script that was loaded as one
        found = None
    if found is not None and found.origin is not None and Path(found.origin).resolve() == place:
        return package
    name = f"{__package__}._{package}"
    if getattr(sys.modules.get(name), "__file__", None) == str(place):
        return name
    spec = importlib.util.spec_from_file_location(name, place, submodule_search_locations=[str(place.parent)])
    if spec is None or spec.loader is None or not place.is_file():
        raise ImportError(f"a part of scr-vlm is missing: got no {place}; expected a package there. Install it again.")
    module = importlib.util.module_from_spec(spec)
    # Before it runs: its own relative imports look for it there.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return name
