"""Names of a package that are imported when they are first asked for: `import scr` alone then loads no torch.

A package lists what it shows once, as imports under `if TYPE_CHECKING:` in its `__init__.py`, where type checkers and
editors look; what runs reads the same lines.
"""

from __future__ import annotations

import ast
import pkgutil
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def on_demand(package: str) -> Callable[[str], Any]:
    """The `__getattr__` of a package (PEP 562); its `__all__` and `dir()` have the names from then on.

    Args:
        package: its `__name__`.
    """
    places = dict(_listed(pkgutil.get_data(package, "__init__.py") or b""))
    shown: Any = sys.modules[package]
    shown.__all__ = sorted(places)
    shown.__dir__ = lambda: sorted({*vars(shown), *places})

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home, attribute = places[name]
        module = import_module(home, package)
        found = getattr(module, attribute) if attribute else module
        # Kept in the package, so that it is looked up once.
        setattr(shown, name, found)
        return found

    return find


def _listed(source: bytes) -> list[tuple[str, tuple[str, str | None]]]:
    """Name → the module that has it, relative to the package, and its name there; None for the module itself."""
    found: list[tuple[str, tuple[str, str | None]]] = []
    for block in ast.parse(source).body:
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING":
            for line in block.body:
                if isinstance(line, ast.ImportFrom):
                    dots, home = "." * line.level, line.module
                    names = [alias.name for alias in line.names]
                    found += [(name, (dots + home, name) if home else (dots + name, None)) for name in names]
    return found
