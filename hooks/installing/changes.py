"""What of a module is ours, and what the module would be without it: for undoing, and for copies.

While anything of ours is on a module, it also has a `__getstate__` of ours, which is what `copy.deepcopy`, `pickle` and
`torch.save` ask for what to copy: the copy is of the module as it would be unpatched, and has nothing to do with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import nn

_MISSING = object()
_GETSTATE = "__getstate__"
# Torch's tables, by number of registration: of the hooks, and of what was said of them.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_SAID_OF_HOOKS = ("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called")


class Change(Protocol):
    """Something of ours on a module."""

    def take_out(self, namespace: dict[str, Any]) -> None:
        """Take it out of the module's `vars`, or of a copy of them; nothing where it is not there."""


class Hook:
    """A forward hook or pre-hook, told from others by its identity, so that torch's handle need not be known yet."""

    def __init__(self, hook: Callable[..., Any]) -> None:
        """`hook` is on no more than one module."""
        self._hook = hook

    def take_out(self, namespace: dict[str, Any]) -> None:
        """See `Change`."""
        for kind in _HOOKS:
            for number, hook in list(namespace[kind].items()):
                if hook is self._hook:
                    # Last from where it is looked for, so that this can be done again.
                    for table in (*_SAID_OF_HOOKS, kind):
                        namespace[table].pop(number, None)


class Attribute:
    """A value set on the instance, over another or over the class's."""

    def __init__(self, name: str, value: object, namespace: dict[str, Any]) -> None:
        """`value` is about to be set in `namespace`."""
        self._name, self._value = name, value
        self._before = namespace.get(name, _MISSING)

    def take_out(self, namespace: dict[str, Any]) -> None:
        """See `Change`; what somebody else has put in its place is theirs."""
        if namespace.get(self._name) is not self._value:
            return
        if self._before is _MISSING:
            namespace.pop(self._name, None)
        else:
            namespace[self._name] = self._before

    def step_over(self, below: Attribute) -> None:
        """`below`, which was there before, is going: what was before that is to come back."""
        if self._before is below._value and self._name == below._name:
            self._before = below._before


class Changes:
    """All that is ours on one module; kept there, as its `__getstate__`."""

    def __init__(self, module: nn.Module) -> None:
        """There is nothing yet."""
        self._module = module
        self._made: list[Change] = []

    def add(self, change: Change) -> None:
        """`change` is about to be made."""
        self._made = [*self._made, change]
        vars(self._module)[_GETSTATE] = self

    def undo(self, change: Change) -> None:
        """Take it off; doing it twice does nothing."""
        namespace = vars(self._module)
        change.take_out(namespace)
        if isinstance(change, Attribute):
            for other in self._made:
                if isinstance(other, Attribute) and other is not change:
                    other.step_over(change)
        self._made = [other for other in self._made if other is not change]
        if not self._made and namespace.get(_GETSTATE) is self:
            namespace.pop(_GETSTATE, None)

    def __call__(self) -> dict[str, Any]:
        """The module's state for a copy, as it would be without us."""
        state = dict(type(self._module).__getstate__(self._module))
        state.pop(_GETSTATE, None)
        state.update({table: state[table].copy() for table in (*_HOOKS, *_SAID_OF_HOOKS)})
        for change in reversed(self._made):
            change.take_out(state)
        return state


def changes_of(module: nn.Module) -> Changes:
    """What is ours on `module`; empty if nothing is."""
    found = vars(module).get(_GETSTATE)
    return found if isinstance(found, Changes) else Changes(module)
