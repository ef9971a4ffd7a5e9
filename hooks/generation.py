"""See every `generate` of one model instance before it runs: who watches may add to its processors, or bring its loop.

One wrapper per model serves all who watch, so that they can leave in any order: it goes on with the first and comes off
with the last. A call goes on with those who watched when it began, whoever comes or leaves meanwhile.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, cast

from torch import nn
from transformers import GenerationConfig, LogitsProcessor

from .errors import UnsupportedGenerationError
from .installing.forks import INSTALLING
from .installing.interrupts import uninterrupted
from .installing.per_model import PerModel
from .installing.running import begin, end, is_inside, threads_inside, when_idle
from .installing.stack import HookStack


@dataclass(eq=False)
class GenerateCall:
    """One call of `generate` that is about to run.

    Attributes:
        model: whose `generate` it is.
        arguments: by name; what is changed here is what `generate` gets.
        outer: the call around it, on the same thread and of whatever model.
        processors: go before the caller's own `logits_processor`, first come first.
        attending: plans that take part in the attention of the call's own rows, if the model is tapped.
        rows: how many these are, beams counted; known from its first forward on, since other rows may come below them.
        kept: what those who watch keep for this call, by themselves; it is gone with the call, however that ends.
    """

    model: Any
    arguments: dict[str, Any]
    outer: GenerateCall | None = None
    processors: list[LogitsProcessor] = field(default_factory=list)
    attending: list[Any] = field(default_factory=list)
    rows: int | None = None
    kept: dict[object, Any] = field(default_factory=dict)
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


Watcher = Callable[[GenerateCall], None]
"""Called before `generate` runs; raises to refuse the call. It has nothing to put back: see `GenerateCall.kept`."""


def watch_generate(model: nn.Module, watcher: Watcher, stack: HookStack) -> None:
    """Let `watcher` see every call of `model.generate` until `stack` is closed; a model without one has no calls.

    Watchers are called in the order in which they came.
    """
    if hasattr(model, "generate"):
        watch = _WATCHES.get(model, lambda: _Watch(model))
        stack.callback(watch.drop, watcher)
        watch.add(watcher)


def current_calls() -> Iterator[GenerateCall]:
    """The calls of watched models that this thread is inside, the innermost first."""
    call = _LOCAL.call
    while call is not None:
        yield call
        call = call.outer


def inside_unwatched(model: nn.Module) -> bool:
    """Whether this thread is inside a call of `model.generate` that has begun before anybody watched."""
    watch = _WATCHES.find(model)
    return watch is not None and watch.began_before()


class _Watch:
    """The wrapper around one model's `generate`."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._watchers: tuple[Watcher, ...] = ()
        self._installed: HookStack | None = None
        self._before: dict[int, FrameType] = {}

    def add(self, watcher: Watcher) -> None:
        uninterrupted(self._add, watcher)

    def _add(self, watcher: Watcher) -> None:
        with INSTALLING:
            self._watchers = (*self._watchers, watcher)
            if self._installed is None:
                model: Any = self._model
                generate = model.generate
                self._installed = HookStack()
                self._installed.attribute(model, "generate", self._wrapper(generate))
                self._before = threads_inside(generate, model)

    def drop(self, watcher: Watcher) -> None:
        uninterrupted(self._drop, watcher)

    def _drop(self, watcher: Watcher) -> None:
        with INSTALLING:
            self._watchers = tuple(other for other in self._watchers if other != watcher)
            if not self._watchers:
                when_idle(self._model, self._settle)

    def _settle(self) -> None:
        if not self._watchers and self._installed is not None:
            self._installed.close()
            self._installed, self._before = None, {}

    def began_before(self) -> bool:
        frame = self._before.get(threading.get_ident())
        if frame is None:
            return False
        if not is_inside(frame):  # it holds all that the call has held
            self._before.pop(threading.get_ident(), None)
            return False
        return True

    def _wrapper(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        model = self._model
        names = [name for name, one in inspect.signature(generate).parameters.items() if one.kind in _BY_POSITION]

        @functools.wraps(generate)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if len(args) > len(names):
                return generate(*args, **kwargs)  # which says what is wrong
            call = GenerateCall(model, {**dict(zip(names, args, strict=False)), **kwargs}, _LOCAL.call)
            try:
                begin(call, model)
                watchers = self._watchers
                if not watchers:
                    end(call)
                _LOCAL.call = call
                for watcher in watchers:
                    watcher(call)
                if call.processors:
                    given = call.arguments.get("logits_processor") or ()
                    call.arguments["logits_processor"] = [*call.processors, *given]
                return generate(**call.arguments)
            finally:
                _LOCAL.call = call.outer
                try:
                    end(call)
                except BaseException:  # an interrupt, before it had begun
                    end(call)
                    raise

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
    call: GenerateCall | None = None


_LOCAL = _Local()


@contextlib.contextmanager
def beside_generate() -> Iterator[None]:
    """Inside the `with`, forwards on this thread are no steps of the `generate` around them."""
    before, _LOCAL.beside = _LOCAL.beside, True
    try:
        yield
    finally:
        _LOCAL.beside = before


@contextlib.contextmanager
def outside_generate() -> Iterator[None]:
    """Inside the `with`, forwards on this thread are in no `generate`, and see what is on the model now."""
    before, _LOCAL.call = _LOCAL.call, None
    try:
        yield
    finally:
        _LOCAL.call = before


def is_beside() -> bool:
    """Whether a forward on this thread is such a one."""
    return _LOCAL.beside
