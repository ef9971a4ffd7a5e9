"""Names of a package that are imported when they are first asked for: `import scr` alone then loads no torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def on_demand(package: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """The `__getattr__` of a package (PEP 562).

    Args:
        package: its `__name__`.
        homes: module, relative to the package where it begins with a dot → names that the package shows from it. A
            module without names is shown itself.
    """
    places = {name: home for home, names in homes.items() for name in names or (home.removeprefix("."),)}

    def find(name: str) -> Any:
        home = places.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(home, package)
        found = getattr(module, name) if homes[home] else module
        # Kept in the package, so that it is looked up once.
        setattr(sys.modules[package], name, found)
        return found

    return find
