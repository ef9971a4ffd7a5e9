"""HookStack: whatever is put on a model goes on the stack, and comes off in reverse order, whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import nn

_MISSING = object()


class HookStack(ExitStack):
    """An `ExitStack` that knows how to change a model for a while.

    Enter it around the installation, so that a failure half-way undoes what was done, and keep it with `pop_all()`
    when the installation is complete:

        with HookStack() as stack:
            stack.forward_hook(layer, edit)
            installed = stack.pop_all()
        ...
        installed.close()
    """

    def forward_pre_hook(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        """Call `hook(module, args, kwargs)` before each forward of `module`."""
        self.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def forward_hook(self, module: nn.Module, hook: Callable[..., Any], always_call: bool = False) -> None:
        """Call `hook(module, args, output)` after each forward of `module`, before all hooks that are there already.

        First in line, because transformers records `hidden_states` by forward hooks of its own: so they see the edit.
        With `always_call` it is called with output None when the forward raised an Exception.
        """
        self.callback(module.register_forward_hook(hook, prepend=True, always_call=always_call).remove)

    def attribute(self, owner: object, name: str, value: object) -> None:
        """Set `owner.name = value` on the instance; put back the old value, or its absence, at the end.

        What somebody else has put in its place meanwhile is theirs and stays.
        """
        before = vars(owner).get(name, _MISSING)
        setattr(owner, name, value)

        def restore() -> None:
            if vars(owner).get(name) is not value:
                return
            if before is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

        self.callback(restore)
