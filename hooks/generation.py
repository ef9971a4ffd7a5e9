"""See every `generate` of one model instance before it runs: who watches may add to its processors, or bring its loop.

One wrapper per model serves all who watch, so that they can leave in any order: it goes on with the first and comes off
with the last.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, cast

from torch import nn
from transformers import GenerationConfig, LogitsProcessor

from .errors import UnsupportedGenerationError
from .per_model import PerModel
from .stack import HookStack


@dataclass(eq=False)
class GenerateCall:
    """One call of `generate` that is about to run.

    Attributes:
        model: whose `generate` it is.
        arguments: by name; what is changed here is what `generate` gets.
        processors: go before the caller's own `logits_processor`, first come first.
    """

    model: Any
    arguments: dict[str, Any]
    processors: list[LogitsProcessor] = field(default_factory=list)
    given: dict[str, Any] = field(init=False)
    """The arguments as the caller gave them."""

    def __post_init__(self) -> None:
        """Keep what was given."""
        self.given = dict(self.arguments)

    def setting(self, name: str) -> Any:
        """A setting of generation, such as `num_beams`: the call's, or its configuration's, or the model's."""
        if name in self.arguments:
            return self.arguments[name]
        for config in (self.arguments.get("generation_config"), getattr(self.model, "generation_config", None)):
            if getattr(config, name, None) is not None:
                return getattr(config, name)
        return None

    @property
    def model_inputs(self) -> dict[str, Any]:
        """What of the given arguments is for the model's forward: the prompt, as its processor made it."""
        left_out = _not_for_the_model(cast(Hashable, type(self.model)))
        given = {name: value for name, value in self.given.items() if value is not None}
        if "inputs" in given:
            given.setdefault("input_ids", given["inputs"])
        return {name: value for name, value in given.items() if name not in left_out}


Around = Callable[[GenerateCall], AbstractContextManager[None]]
"""Entered before `generate` runs and left after it; raises to refuse the call."""


def watch_generate(model: nn.Module, around: Around, stack: HookStack) -> None:
    """Let `around` see every call of `model.generate` until `stack` is closed; a model without one has no calls.

    Watchers are entered in the order in which they came.
    """
    if hasattr(model, "generate"):
        watch = _WATCHES.get(model, lambda: _Watch(model))
        watch.add(around)
        stack.callback(watch.drop, around)


class _Watch:
    """The wrapper around one model's `generate`."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._arounds: list[Around] = []
        self._installed: HookStack | None = None
        self._lock = threading.Lock()

    def add(self, around: Around) -> None:
        with self._lock:
            if self._installed is None:
                with HookStack() as stack:
                    stack.attribute(self._model, "generate", self._wrapper())
                    self._installed = stack.pop_all()
            self._arounds = [*self._arounds, around]

    def drop(self, around: Around) -> None:
        with self._lock:
            self._arounds = [other for other in self._arounds if other != around]
            if not self._arounds and self._installed is not None:
                self._installed.close()
                self._installed = None

    def _wrapper(self) -> Callable[..., Any]:
        model: Any = self._model
        generate = model.generate
        names = [name for name, one in inspect.signature(generate).parameters.items() if one.kind in _BY_POSITION]

        @functools.wraps(generate)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if len(args) > len(names):
                return generate(*args, **kwargs)  # which says what is wrong
            call = GenerateCall(model, {**dict(zip(names, args, strict=False)), **kwargs})
            with contextlib.ExitStack() as stack:
                for around in self._arounds:
                    stack.enter_context(around(call))
                if call.processors:
                    given = call.arguments.get("logits_processor") or ()
                    call.arguments["logits_processor"] = [*call.processors, *given]
                return generate(**call.arguments)

        return watched


_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@functools.lru_cache
def _not_for_the_model(model_class: Hashable) -> frozenset[str]:
    own = {
        name
        for name, one in inspect.signature(cast(Any, model_class).generate).parameters.items()
        if one.kind in _BY_POSITION
    }
    settings = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    return frozenset(own | settings | {"past_key_values", "cache_position", "labels", "logits_to_keep", "tokenizer"})


_WATCHES = PerModel[_Watch]()


def refuse_assistance(call: GenerateCall, method: str) -> None:
    """Refuse decoding that verifies several candidate tokens in one forward.

    Raises:
        UnsupportedGenerationError: naming the argument.
    """
    for name in ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp"):
        if call.setting(name):
            raise UnsupportedGenerationError(
                f"{method} takes one token at a time: got {name}; expected decoding without candidates. "
                f"Leave {name} out."
            )


class _Local(threading.local):
    beside: bool = False


_LOCAL = _Local()


@contextlib.contextmanager
def beside_generate() -> Iterator[None]:
    """Inside the `with`, forwards on this thread are no steps of the `generate` around them."""
    before, _LOCAL.beside = _LOCAL.beside, True
    try:
        yield
    finally:
        _LOCAL.beside = before


def is_beside() -> bool:
    """Whether a forward on this thread is such a one."""
    return _LOCAL.beside
