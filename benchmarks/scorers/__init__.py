"""The table of scorers: what `python -m benchmarks.score NAME` reads. A new one is one file and one line here.

Imports nothing heavy: rows are "module:Class" strings.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import Scorer

# Name → where its class is.                                            ← the only line to add for a new scorer
SCORERS: dict[str, str] = {}


def load_scorer(name: str) -> Scorer:
    """The scorer called `name`, one of `SCORERS`."""
    module, _, attribute = SCORERS[name].partition(":")
    return getattr(importlib.import_module(module, __name__), attribute)()
