"""What an error about an unknown name says last: the nearest known name, or what to do. Standard library only."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggestion(name: str, known: Iterable[str], otherwise: str = "Choose one of them.") -> str:
    """Say "Did you mean 'x'?" where a known name is near, else `otherwise`."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {close[0]!r}?" if close else otherwise
