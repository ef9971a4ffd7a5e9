"""Records, stores and statistics of the package `benchmarks` that lies beside `analysis`.

Everything in analysis imports them from here, so that a user's own benchmarks.py is not in the way: see `scr.beside`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scr.beside import beside

if TYPE_CHECKING:
    from benchmarks.records import *  # noqa: F403
    from benchmarks.stats import *  # noqa: F403
    from benchmarks.store import *  # noqa: F403

# As `from ... import *` would, of a package whose name is known only now.
for _module in [beside("benchmarks", name) for name in ("records", "stats", "store")]:
    globals().update({name: value for name, value in vars(_module).items() if not name.startswith("_")})
