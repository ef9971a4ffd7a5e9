"""`patch()` and `Patch`: put a method on a model, take it off."""

from __future__ import annotations

import contextlib
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from torch import nn
from transformers import PreTrainedModel

from hooks import GenerateCall, HookStack, dispatcher, unwrap, watch_generate

from .errors import AlreadyPatchedError, ConfigError
from .methods import METHODS, Method, MethodConfig, MethodEntry, Trace, get_method

_PATCHED: weakref.WeakKeyDictionary[nn.Module, set[str]] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


class Patch:
    """A method, ready to be put on a model: a context manager, and a handle with `install()` and `remove()`.

    Attributes:
        name: the method's name.
        config: the effective configuration, with the family's values filled in.
    """

    def __init__(self, model: PreTrainedModel, name: str, method: Method, compiled: Sequence[nn.Module] = ()) -> None:
        """Use `scr.patch`."""
        self.name = name
        self.config = method.config
        self._model, self._method, self._compiled = model, method, compiled
        self._installed: HookStack | None = None
        self._seen_before = 0
        self._calls = 0

    @property
    def traces(self) -> Sequence[Trace]:
        """What was done to the last images, oldest first; kept after the patch is removed."""
        return list(getattr(self._method, "traces", ()))

    @contextlib.contextmanager
    def recording(self) -> Iterator[Sequence[Trace]]:
        """Collect every trace that is made inside the `with`, however few of them `keep_traces` keeps.

            with patched.recording() as traces:
                model.generate(**inputs)

        Methods that leave no traces leave none here either.
        """
        method: Any = self._method
        recorded: deque[Trace] = deque()
        if not hasattr(method, "traces"):
            yield recorded
            return
        kept, method.traces = method.traces, recorded
        try:
            yield recorded
        finally:
            method.traces = kept
            kept.extend(recorded)

    def install(self) -> Self:
        """Put the method on the model.

        Raises:
            AlreadyPatchedError: if a method of this name is on the model already.
        """
        with _LOCK:
            names = _PATCHED.setdefault(self._model.base_model, set())
            if self.name in names:
                raise AlreadyPatchedError(
                    f"method already on this model: got a second {self.name!r}; expected each method at most once. "
                    "Leave the first `with` (or call `remove()`) before."
                )
            with HookStack() as stack:
                names.add(self.name)
                stack.callback(names.discard, self.name)
                watch_generate(self._model, self._count, stack)
                self._method.install(self._model, stack)
                if "activations" in self._method.requires:
                    for wrapper in self._compiled:
                        dispatcher(self._model).watch_compiled(wrapper, stack)
                self._seen_before = self._seen()
                self._installed = stack.pop_all()
        return self

    def remove(self) -> None:
        """Take the method off; the model is as it was. Doing it twice does nothing."""
        with _LOCK:
            if self._installed is not None:
                installed, self._installed = self._installed, None
                installed.close()

    def __enter__(self) -> Self:
        """Install."""
        return self.install()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove, whatever happened; warn if the model was never called where the patch could see it."""
        unseen = self._installed is not None and self._seen() == self._seen_before
        self.remove()
        if unseen and kind is None:
            warnings.warn(
                f"no {'forward' if 'activations' in self._method.requires else 'generate'} was seen under "
                f"{self.name!r}: the model was not called, or a wrapper was, such as what torch.compile(model) "
                "returned, that bypasses it. Patch what you call.",
                stacklevel=2,
            )

    def _seen(self) -> int:
        """How often the model was called where the method could act."""
        return dispatcher(self._model).forwards if "activations" in self._method.requires else self._calls

    @contextlib.contextmanager
    def _count(self, call: GenerateCall) -> Iterator[None]:
        self._calls += 1
        yield

    def __repr__(self) -> str:
        """Name, configuration and whether it is on."""
        state = "installed" if self._installed is not None else "not installed"
        return f"Patch({self.name!r}, {self.config}, {state})"


def patch(model: PreTrainedModel, method: str | MethodConfig = "scr", **fields: Any) -> Patch:
    """Prepare a method for a model; nothing happens before `with` or `install()`.

        with scr.patch(model):
            out = model.generate(**inputs)
        with scr.patch(model, scr.SCRConfig(num_sources=16)) as patched:
            model.generate(**inputs)
            patched.traces[-1]
        with scr.patch(model, "uniform_smooth", seed=1): ...

    Args:
        model: a transformers model of a supported family (`scr.list_families()`), or a PeftModel around one, or what
            `torch.compile` made of it: that whose `generate` is called.
        method: a name of `scr.list_methods()`, or a configuration.
        **fields: fields of the method's configuration, where a name is given; a range also as [start, stop].

    Raises:
        UnsupportedModelError: for a model that no family answers for.
        ConfigError: for an unknown method or field, or a value out of range.
    """
    model, compiled = unwrap(model)
    if isinstance(method, MethodConfig):
        if fields:
            raise ConfigError(
                f"a configuration and fields: got both, fields {sorted(fields)}; expected one of them. "
                "Set the fields in the configuration."
            )
        entry, config = _entry_of(method), method
    else:
        entry = get_method(method)
        config = entry.configure(fields)
    return Patch(model, entry.name, entry.method(model, config), compiled)


def _entry_of(config: MethodConfig) -> MethodEntry:
    for entry in METHODS.values():
        if type(config) is entry.config_class and not entry.preset:
            return entry
    raise ConfigError(
        f"configuration of no known method: got {type(config).__name__}; expected one of "
        f"{sorted({entry.config_class.__name__ for entry in METHODS.values()})}. Add the method to the table."
    )
