"""HookStack: whatever is put on a model goes on the stack, and comes off in reverse order, whatever happens.

Each undo is on the stack before its change is made, and leaves it when it has been done. It finds out by itself whether
there is anything to undo, so that one that was interrupted is simply done again.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from torch import nn

from .changes import Attribute, Change, Hook, changes_of


class HookStack:
    """Changes of a model for a while.

        with HookStack() as stack:
            stack.forward_hook(layer, edit)
            ...

    Or without `with`, and at the end `close()`.
    """

    def __init__(self, until_dropped: bool = False) -> None:
        """Nothing is on it.

        Args:
            until_dropped: whether a stack that nobody holds any more closes itself. That of a `with` does, since an
                interrupt may come before the first instruction of `__exit__`, which then never runs.
        """
        self._undos: list[Callable[[], object]] = []
        self._finalizer: weakref.finalize[[list[Callable[[], object]]], HookStack] | None = None
        if until_dropped:
            self._close_when_dropped()

    def callback(self, undo: Callable[..., object], *args: Any) -> None:
        """Call `undo(*args)` at the end, and again if it was interrupted."""
        self._undos.append(functools.partial(undo, *args))

    def forward_pre_hook(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        """Call `hook(module, args, kwargs)` before each forward of `module`.

        In a forward that another thread has begun before, torch may leave out `kwargs`; then it is not called.
        """

        def called(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
            return None if kwargs is None else hook(module, args, kwargs)

        self._put_on(module, Hook(called))
        module.register_forward_pre_hook(called, with_kwargs=True)

    def forward_hook(self, module: nn.Module, hook: Callable[..., Any], always_call: bool = False) -> None:
        """Call `hook(module, args, output)` after each forward of `module`, before all hooks that are there already.

        First in line, because transformers records `hidden_states` by forward hooks of its own: so they see the edit.
        With `always_call` it is called with output None when the forward raised an Exception.
        """
        self._put_on(module, Hook(hook))
        module.register_forward_hook(hook, prepend=True, always_call=always_call)

    def attribute(self, owner: nn.Module, name: str, value: object) -> None:
        """Set `owner.name = value` on the instance; put back the old value, or its absence, at the end.

        What somebody else has put in its place meanwhile is theirs and stays.
        """
        self._put_on(owner, Attribute(name, value, vars(owner)))
        vars(owner)[name] = value

    def _put_on(self, module: nn.Module, change: Change) -> None:
        changes = changes_of(module)
        self.callback(changes.undo, change)
        changes.add(change)

    def close(self) -> None:
        """Undo everything, last first. Closing again goes on where an interrupt ended it, or does nothing.

        Raises:
            Exception: the first that an undo raised, after the others have been done.
        """
        _undo(self._undos)
        if self._finalizer is not None:
            self._finalizer.detach()  # what a finalizer runs swallows an interrupt

    def _close_when_dropped(self) -> None:
        self._finalizer = weakref.finalize(self, _undo, self._undos)
        self._finalizer.atexit = False

    def __enter__(self) -> Self:
        """The stack itself."""
        self._close_when_dropped()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close, whatever happened."""
        try:
            self.close()
        except BaseException:
            self.close()
            raise


def _undo(undos: list[Callable[[], object]]) -> None:
    failure: Exception | None = None
    while undos:
        try:
            undos[-1]()
        except Exception as error:
            failure = failure or error
        undos.pop()
    if failure is not None:
        raise failure
