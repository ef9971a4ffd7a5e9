"""Records, stores and statistics of the package `benchmarks` that lies beside `analysis`.

Where Python would import a user's own benchmarks.py, ours is loaded under a name inside `analysis`, and
`import benchmarks` gives the user theirs. Everything in analysis imports them from here.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.records import *  # noqa: F403
    from benchmarks.stats import *  # noqa: F403
    from benchmarks.store import *  # noqa: F403

_OURS = Path(__file__).resolve().parent.parent / "benchmarks" / "__init__.py"


def _name() -> str:
    """The name under which our package can be imported."""
    try:
        found = importlib.util.find_spec("benchmarks")
    except ValueError:  # a module without a specification
        found = None
    if found is not None and found.origin is not None and Path(found.origin).resolve() == _OURS:
        return "benchmarks"
    name = f"{__package__}.benchmarks"
    spec = importlib.util.spec_from_file_location(name, _OURS, submodule_search_locations=[str(_OURS.parent)])
    if spec is None or spec.loader is None or not _OURS.is_file():
        raise ImportError(f"a part of scr-vlm is missing: got no {_OURS}; expected a package there. Install it again.")
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return name


# As `from ... import *` would, of a package whose name is known only now.
for _module in [importlib.import_module(f".{name}", _name()) for name in ("records", "stats", "store")]:
    globals().update({name: value for name, value in vars(_module).items() if not name.startswith("_")})
