"""Which calls and forwards are running on a model, in any thread: what they began with stays until they have ended.

A thread that generates must not lose a hook half-way because another one removes a patch. So hooks whose method is gone
stay on for as long as anything runs that may have begun with them, and do nothing for what has begun since.
"""

from __future__ import annotations

import inspect
import sys
import threading
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

from torch import nn

from .forks import INSTALLING, tell_of_forks
from .interrupts import uninterrupted


def base_of(model: nn.Module) -> nn.Module:
    """The module that stands for a model and for the one without its head."""
    base = getattr(model, "base_model", model)
    return base if isinstance(base, nn.Module) else model


class _Running:
    """One table for the process; it holds no call, and what waits no longer than something runs."""

    def __init__(self) -> None:
        # Call → base model and thread. Weak, so that a call whose end was interrupted does not last for ever.
        self._calls: weakref.WeakKeyDictionary[object, tuple[nn.Module, int]] = weakref.WeakKeyDictionary()
        self._waiting: list[tuple[nn.Module, Callable[[], object]]] = []
        tell_of_forks(self)

    def begin(self, call: object, model: nn.Module) -> None:
        self._calls[call] = (base_of(model), threading.get_ident())

    def end(self, call: object) -> None:
        self._calls.pop(call, None)
        if self._waiting:
            uninterrupted(self._settle)

    def wait(self, model: nn.Module, undo: Callable[[], object]) -> None:
        with INSTALLING:
            self._waiting.append((base_of(model), undo))
            self._settle()

    def forked(self) -> None:
        own = threading.get_ident()
        for call, (_, thread) in list(self._calls.items()):
            if thread != own:
                self._calls.pop(call, None)
        self._settle()

    def _settle(self) -> None:
        with INSTALLING:
            busy = [base for base, _ in list(self._calls.values())]
            for entry in list(self._waiting):
                if not any(entry[0] is base for base in busy):
                    entry[1]()
                    self._waiting.remove(entry)


_RUNNING = _Running()


def begin(call: object, model: nn.Module) -> None:
    """`call`, any object, is now running on `model`."""
    _RUNNING.begin(call, model)


def end(call: object) -> None:
    """`call` has ended, or has never begun; whatever has waited for it is undone. Doing it twice does nothing."""
    _RUNNING.end(call)


def when_idle(model: nn.Module, undo: Callable[[], object]) -> None:
    """Call `undo` as soon as nothing is running on `model` or its base model: at once, if nothing is."""
    _RUNNING.wait(model, undo)


def threads_inside(method: Callable[..., Any], owner: object) -> dict[int, FrameType]:
    """For each thread that is just running `method`, bound to `owner`: its frame there."""
    found, code = {}, getattr(inspect.unwrap(method), "__code__", None)
    for thread, frame in sys._current_frames().items():
        one: FrameType | None = frame
        while one is not None:
            if one.f_code is code and one.f_locals.get("self") is owner:
                found[thread] = one
            one = one.f_back
    return found


def is_inside(frame: FrameType) -> bool:
    """Whether this thread is still running `frame`."""
    one: FrameType | None = sys._getframe()
    while one is not None and one is not frame:
        one = one.f_back
    return one is not None
