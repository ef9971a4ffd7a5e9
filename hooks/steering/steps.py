"""Hooks that act in the steps of calls of `generate`, on the calls' own rows, and in no other forward."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import LogitsProcessor

from ..errors import UnsupportedGenerationError
from ..generation import GenerateCall, current_calls, is_beside
from ..installing.running import when_idle
from ..installing.stack import HookStack
from ..prefills.attention import is_reading
from ..residual import hidden_of, with_hidden

See = Callable[[Any, Float[Tensor, "rows seq dim"]], object]
"""Gets what is kept for the call, and what goes into a module."""
Edit = Callable[[Any, Float[Tensor, "rows seq dim"]], Tensor | None]
"""Gets what is kept for the call, and what came out of a module; returns what is to stand there, or None."""


@dataclass(eq=False)
class _Running:
    """A call that is running: what is kept for it, how many rows are its own, and which hooks its step has met."""

    kept: Any
    rows: int | None = None
    met: set[int] = field(default_factory=set)


class StepHooks:
    """Hooks on one model, for the calls that were begun with them.

    A step is a forward inside such a call that is not beside it (`beside_generate`) and no diagnostic. The first one
    has the call's own rows alone; what is below them later belongs to another method's branch: it is neither shown nor
    changed.
    """

    def __init__(self, model: nn.Module, stack: HookStack) -> None:
        """Nothing is on the model; what will be comes off with `stack`, once no call needs it any more."""
        self._hooks, self._number = HookStack(), 0
        self._encoding: set[int] = set()
        stack.callback(when_idle, model, self._hooks.close)

    def before(self, module: nn.Module, see: See) -> None:
        """Call `see` before each forward of `module` that is part of a step."""
        self._hooks.forward_pre_hook(module, functools.partial(self._before, self._number, see))
        self._number += 1

    def after(self, module: nn.Module, edit: Edit) -> None:
        """Call `edit` after each forward of `module` that is part of a step; the residual stream may be in a tuple."""
        self._hooks.forward_hook(module, functools.partial(self._after, self._number, edit))
        self._number += 1

    def while_encoding(self, module: nn.Module, edit: Edit) -> None:
        """Call `edit` after each forward of a module of the vision tower that is part of the call, outside a step too.

        It gets the whole output, of whatever shape: the tower's batch is of images. The first step must have met it.
        """
        self._hooks.forward_hook(module, functools.partial(self._after, self._number, edit))
        self._encoding.add(self._number)
        self._number += 1

    def begin(self, call: GenerateCall, kept: Any, name: str) -> LogitsProcessor:
        """Let the hooks act in a call.

        Args:
            call: about to run; its steps are not compiled, since a compiled one would not call the hooks.
            kept: what they get.
            name: of the method, for the error.

        Returns:
            A processor for the call, which leaves scores as they are and refuses a step that has not met every hook.
        """
        call.arguments["disable_compile"] = True
        call.kept[self] = running = _Running(kept)
        return _StepSeen(running, set(range(self._number)), self._encoding, name)

    def _before(
        self, number: int, see: See, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        hidden = args[0] if args else next(kwargs[name] for name in ("hidden_states", "input") if name in kwargs)
        if (running := self._step(number, hidden)) is not None:
            see(running.kept, hidden[: running.rows])

    def _after(self, number: int, edit: Edit, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        hidden = hidden_of(output)
        if (running := self._step(number, hidden)) is None:
            return None
        own = hidden if number in self._encoding else hidden[: running.rows]
        edited = edit(running.kept, own)
        if edited is None:
            return None
        return with_hidden(output, torch.cat([edited.to(hidden.dtype), hidden[len(own) :]]))

    def _step(self, number: int, hidden: Tensor) -> _Running | None:
        if torch.compiler.is_compiling() or is_beside() or is_reading():
            return None
        running: _Running | None = next((call.kept[self] for call in current_calls() if self in call.kept), None)
        if running is not None:
            if running.rows is None and number not in self._encoding:
                running.rows = len(hidden)
            running.met.add(number)
        return running


class _StepSeen(LogitsProcessor):
    def __init__(self, running: _Running, hooks: set[int], encoding: set[int], name: str) -> None:
        self._running, self._wanted, self._later, self._name = running, hooks, hooks - encoding, name

    def __call__(
        self, input_ids: Int[Tensor, "rows length"], scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        met, self._running.met = self._running.met, set()
        if missing := self._wanted - met:
            raise UnsupportedGenerationError(
                f"{self._name} saw no layers: got a step that missed {len(missing)} of {len(self._wanted)} hooks; "
                "expected all to be called. Use the model without torch.compile, and a loop that makes a step for each "
                "token."
            )
        self._wanted = self._later
        return scores
