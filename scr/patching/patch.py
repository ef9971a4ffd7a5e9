"""`Patch`: put a method on a model, take it off; and several of them, one inside the other."""

from __future__ import annotations

import contextlib
import itertools
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self, overload

from torch import nn
from transformers import PreTrainedModel

from .._hooks import INSTALLING, GenerateCall, HookStack, dispatcher, uninterrupted, watch_generate
from ..errors import AlreadyPatchedError
from ..methods import Method, MethodConfig, Trace
from ..methods.wording import one_line
from ..unused import warn_unless_used
from .baseline import BASELINE
from .combination import CombinedConfig

_PATCHED: weakref.WeakKeyDictionary[nn.Module, set[str]] = weakref.WeakKeyDictionary()


class Patch:
    """A method, ready to be put on a model: a context manager, and a handle with `install()` and `remove()`.

    One that is dropped without having been put on, or asked for its name or configuration, warns.
    """

    _unused: weakref.finalize | None = None  # until it is made: what fails before that was never there to be used

    def __init__(self, model: PreTrainedModel, name: str, method: Method, compiled: Sequence[nn.Module] = ()) -> None:
        """Use `scr.patch`."""
        self._name = name
        self._model, self._method, self._compiled = model, method, compiled
        self._installed: HookStack | None = None
        self._seen_before = 0
        self._calls = _Calls()
        self._unused = warn_unless_used(self, "patch", name)

    @property
    def name(self) -> str:
        """The method's name."""
        self._use()
        return self._name

    @property
    def config(self) -> MethodConfig:
        """The effective configuration, with the family's values filled in."""
        self._use()
        return self._method.config

    @property
    def parts(self) -> tuple[Patch, ...]:
        """Itself; of a combination its parts, in the order of nesting."""
        return (self,)

    @property
    def traces(self) -> Sequence[Trace]:
        """What was done to the last images, oldest first; kept after the patch is removed."""
        return list(self._method.traces or ())

    @property
    def leaves_traces(self) -> bool:
        """Whether there are `traces` of every image, once the model was asked."""
        return self._method.traces is not None

    def diagnosed(self) -> dict[str, range]:
        """The blocks that the method looks at, as arguments of `scr.diagnose`; what is left out is the family's."""
        return self._method.diagnosed()

    @contextlib.contextmanager
    def recording(self) -> Iterator[Sequence[Trace]]:
        """Collect every trace that is made inside the `with`, however few of them `keep_traces` keeps.

            with patched.recording() as traces:
                model.generate(**inputs)

        Methods that leave no traces leave none here either.
        """
        method, recorded = self._method, deque[Trace]()
        kept = method.traces
        if kept is None:
            yield recorded
            return
        method.traces = recorded
        try:
            yield recorded
        finally:
            method.traces = kept
            kept.extend(recorded)

    def _use(self) -> None:
        if self._unused is not None:
            self._unused.detach()

    def install(self) -> Self:
        """Put the method on the model.

        Raises:
            AlreadyPatchedError: if a method of this name is on the model already.
        """
        return self._put_on(HookStack())

    def remove(self) -> None:
        """Take the method off; the model is as it was. Doing it twice does nothing."""
        if self._installed is not None:
            uninterrupted(self._take_off, self._installed)

    def __enter__(self) -> Self:
        """Install."""
        return self._put_on(HookStack(until_dropped=True))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove, whatever happened; warn if the model was never called where the patch could see it."""
        try:
            unseen = self._installed is not None and self._seen() == self._seen_before
        finally:
            try:
                self.remove()
            except BaseException:  # an interrupt, before it had begun
                self.remove()
                raise
        if unseen and kind is None:
            warnings.warn(
                f"no {'forward' if self._method.in_any_forward else 'generate'} was seen under "
                f"{self.name!r}: the model was not called, or a wrapper was, such as what torch.compile(model) "
                "returned, that bypasses it. Patch what you call.",
                stacklevel=2,
            )

    def _put_on(self, stack: HookStack) -> Self:
        self._use()
        try:
            uninterrupted(self._fill, stack)
        except BaseException:
            uninterrupted(self._take_off, stack)
            raise
        return self

    def _fill(self, stack: HookStack) -> None:
        with INSTALLING:
            names = _PATCHED.setdefault(self._model.base_model, set())
            if self.name in names:
                raise AlreadyPatchedError(
                    f"method already on this model: got a second {self.name!r}; expected each method at most once. "
                    "Leave the first `with` (or call `remove()`) before."
                )
            stack.callback(names.discard, self.name)
            names.add(self.name)
            watch_generate(self._model, self._calls, stack)
            self._method.install(self._model, stack)
            if self._method.in_any_forward:
                for wrapper in self._compiled:
                    dispatcher(self._model).watch_compiled(wrapper, stack)
            self._seen_before = self._seen()
            self._installed = stack

    def _take_off(self, stack: HookStack) -> None:
        with INSTALLING:
            stack.close()
            if self._installed is stack:
                self._installed = None

    def _seen(self) -> int:
        """How often the model was called where the method could act."""
        return dispatcher(self._model).forwards if self._method.in_any_forward else self._calls.seen

    def __repr__(self) -> str:
        """Name, configuration and whether it is on."""
        return _shown(self._name, [self._method.config], self._installed is not None)


class _Calls:
    """How many there were. The model holds it while the patch is on, and not the patch, so that that can be dropped."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, call: GenerateCall) -> None:
        self.seen += 1


class Combination(Patch):
    """Several methods, put on in their order and taken off in reverse; none of them is the model as it is."""

    def __init__(self, parts: Sequence[Patch]) -> None:
        """Use `scr.patch`."""
        self._name = "+".join(part.name for part in parts) or BASELINE
        self._parts = tuple(parts)
        if parts:  # of parts the whole warns, of none there is nothing to be missed
            self._unused = warn_unless_used(self, "patch", self._name)

    @property
    def config(self) -> CombinedConfig:
        """Those of the parts."""
        self._use()
        return CombinedConfig(parts={part.name: part.config for part in self._parts})

    @property
    def parts(self) -> tuple[Patch, ...]:
        """The methods it is made of, in the order of nesting."""
        return self._parts

    @property
    def traces(self) -> Sequence[Trace]:
        """Those of the parts, one part after the other."""
        return [trace for part in self._parts for trace in part.traces]

    @property
    def leaves_traces(self) -> bool:
        """Whether a part does."""
        return any(part.leaves_traces for part in self._parts)

    def diagnosed(self) -> dict[str, range]:
        """Those of the first part that leaves traces."""
        return next((part.diagnosed() for part in self._parts if part.leaves_traces), {})

    @contextlib.contextmanager
    def recording(self) -> Iterator[Sequence[Trace]]:
        """As `Patch.recording`, one part after the other."""
        with contextlib.ExitStack() as stack:
            yield _Joined([stack.enter_context(part.recording()) for part in self._parts])

    def install(self) -> Self:
        """Put all of them on the model, or none.

        Raises:
            AlreadyPatchedError: if one of them is on the model already.
        """
        return self._put_all_on(lambda part: part.install())

    def __enter__(self) -> Self:
        """Install."""
        return self._put_all_on(lambda part: part.__enter__())

    def _put_all_on(self, put_on: Callable[[Patch], object]) -> Self:
        self._use()
        with contextlib.ExitStack() as stack:
            for part in self._parts:
                if part._installed is None:
                    stack.callback(part.remove)
                put_on(part)
            stack.pop_all()
        return self

    def remove(self) -> None:
        """Take all of them off, in reverse. Doing it twice does nothing."""
        with contextlib.ExitStack() as stack:
            for part in self._parts:
                stack.callback(part.remove)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove, whatever happened; warn if the model was never called where a part could see it."""
        try:
            with contextlib.ExitStack() as stack:
                for part in self._parts:
                    stack.callback(part.__exit__, kind, error, traceback)
        except BaseException:  # an interrupt, before they had begun
            self.remove()
            raise

    def __repr__(self) -> str:
        """Name, configurations and whether it is on."""
        configs = [part._method.config for part in self._parts]
        return _shown(self._name, configs, any(part._installed is not None for part in self._parts))


def _shown(name: str, configs: Sequence[MethodConfig], installed: bool) -> str:
    state = "installed" if installed else "not installed"
    return one_line("Patch", repr(name), *map(repr, configs), end=f", {state})")


class _Joined(Sequence[Trace]):
    """Growing sequences, read one after the other."""

    def __init__(self, recorded: Sequence[Sequence[Trace]]) -> None:
        self._recorded = recorded

    def __len__(self) -> int:
        return sum(map(len, self._recorded))

    @overload
    def __getitem__(self, index: int) -> Trace: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Trace]: ...

    def __getitem__(self, index: int | slice) -> Trace | Sequence[Trace]:
        return list(itertools.chain.from_iterable(self._recorded))[index]
