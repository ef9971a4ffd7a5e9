"""A process that is forked while other threads use a model: the child has their locks and changes, but not them.

Locks that are held for a short time are taken around the fork, so that the child never sees anything half done. What
may be held for as long as a forward runs is renewed in the child, and what those threads had put on comes off there.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

INSTALLING = threading.RLock()
"""Held by whoever puts something on a model or takes it off: one at a time, for no longer than that takes.

The main thread takes it inside `uninterrupted` alone; it may not be asked for by a thread that another waits for.
"""


class Forked(Protocol):
    """Something that other threads may be using."""

    def forked(self) -> None:
        """In the child: they are gone."""


_KNOWN: weakref.WeakSet[Forked] = weakref.WeakSet()


def tell_of_forks(one: Forked) -> None:
    """Call `one.forked()` in every child that this process is forked into, for as long as `one` is used."""
    _KNOWN.add(one)


def _in_the_child() -> None:
    INSTALLING.release()
    for one in list(_KNOWN):
        one.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=INSTALLING.acquire, after_in_parent=INSTALLING.release, after_in_child=_in_the_child)
