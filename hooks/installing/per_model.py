"""One object per model, shared by all who ask, for as long as somebody uses it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from torch import nn

from .forks import tell_of_forks

Kept = TypeVar("Kept")


class PerModel(Generic[Kept]):
    """A table from models to objects that holds neither.

    What it finds is kept alive by what it has installed on the model, and otherwise by whoever asked for it: held
    here, it would keep a model alive that was dropped with something installed.
    """

    def __init__(self) -> None:
        """Nothing is known."""
        self._known: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Kept]] = weakref.WeakKeyDictionary()
        self._lock = threading.RLock()
        tell_of_forks(self)

    def get(self, model: nn.Module, make: Callable[[], Kept]) -> Kept:
        """The model's object, made now if nobody uses one."""
        with self._lock:
            found = self.find(model)
            if found is None:
                found = make()
                self._known[model] = weakref.ref(found)
            return found

    def find(self, model: nn.Module) -> Kept | None:
        """The model's object, if somebody uses one."""
        known = self._known.get(model)
        return known() if known is not None else None

    def forked(self) -> None:
        """Whoever held the lock is not in this process."""
        self._lock = threading.RLock()
