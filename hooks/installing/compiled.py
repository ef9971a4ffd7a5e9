"""See every image prefill, whatever has been compiled: under a patch those forwards run eagerly, and only those.

A compiled forward is a recording: hooks put on after it was made are not in it, and torch does not look for new ones.
Steps of decoding, on which no hook does anything, stay compiled.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..prefills.queries import visual_input
from .forks import INSTALLING, tell_of_forks
from .interrupts import uninterrupted
from .running import begin, end
from .stack import HookStack


def unwrap(model: Any) -> tuple[Any, list[nn.Module]]:
    """The transformers model inside PeftModels and compiled wrappers, and those wrappers that are compiled.

    What is neither is returned as it is.
    """
    compiled: list[nn.Module] = []
    while not isinstance(model, PreTrainedModel):
        if hasattr(model, "_orig_mod"):
            compiled.append(model)
            model = model._orig_mod
        elif hasattr(model, "get_base_model"):
            model = model.get_base_model()
        else:
            break
    return model, compiled


def eager_prefills(stack: HookStack, module: nn.Module, seen: Callable[[], None]) -> None:
    """Let forwards of `module` that carry an image run uncompiled, inside and out, until `stack` is closed.

    Args:
        stack: takes what is put on the module.
        module: a model, or what `torch.compile(model)` returned.
        seen: called at each forward that is not itself part of a compiled one.
    """
    if hasattr(module, "_orig_mod"):
        compiled: Any = module
        stack.attribute(module, "forward", _dispatching(module, compiled.forward, compiled._orig_mod, seen))
        return
    # `Module.__call__` goes through this attribute, where `module.compile()` leaves its result.
    call = module._compiled_call_impl or module._call_impl
    stack.attribute(module, "_compiled_call_impl", _dispatching(module, call, module._call_impl, seen))


def _dispatching(
    module: nn.Module, usual: Callable[..., Any], eager: Callable[..., Any], seen: Callable[[], None]
) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():
            seen()
        if _carries_image(args, kwargs):
            return _run_eagerly(module, eager, args, kwargs)
        return usual(*args, **kwargs)

    return call


def _carries_image(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    # Given by position, pixels are not told from ids: every tensor beyond the first may be one.
    return visual_input(kwargs) is not None or len(args) > 1


class _EagerStance:
    """torch's compile stance belongs to the process: the first forward in sets it, the last one out puts it back."""

    def __init__(self) -> None:
        self._inside: dict[object, int] = {}
        self._stance: Any = None
        tell_of_forks(self)

    def enter(self, forward: object) -> None:
        uninterrupted(self._enter, forward, threading.get_ident())

    def _enter(self, forward: object, thread: int) -> None:
        with INSTALLING:
            self._inside[forward] = thread
            if self._stance is None:
                self._stance = torch.compiler.set_stance("force_eager")

    def leave(self, forward: object) -> None:
        """Doing it twice does nothing."""
        uninterrupted(self._leave, forward)

    def _leave(self, forward: object) -> None:
        with INSTALLING:
            self._inside.pop(forward, None)
            if not self._inside and self._stance is not None:
                self._stance.__exit__(None, None, None)
                self._stance = None

    def forked(self) -> None:
        """The other threads' forwards are not in this process."""
        for forward, thread in list(self._inside.items()):
            if thread != threading.get_ident():
                self._leave(forward)


_EAGER_STANCE = _EagerStance()


class _Forward:
    """One forward that carries an image."""


@torch.compiler.disable
def _run_eagerly(module: nn.Module, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    forward = _Forward()
    try:
        begin(forward, module)
        _EAGER_STANCE.enter(forward)
        return call(*args, **kwargs)
    finally:
        try:
            _EAGER_STANCE.leave(forward)
            end(forward)
        except BaseException:  # an interrupt, before they were done
            _EAGER_STANCE.leave(forward)
            end(forward)
            raise
