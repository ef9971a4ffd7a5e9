"""Ways to generate, in turn in one process, and what each of them takes: the time of each token, and memory."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import LogitsProcessor

import scr
from scr.redistribution import RedistributionPlan, plan_redistribution, redistribute

from ..asking.timing import synchronize
from .models import ATTENTION, TEXT_AFTER, TEXT_BEFORE, Workload
from .table import VANILLA


class Method:
    """A way to generate, on one workload.

    Attributes:
        name: in tables.
        pass_ms: what one pass of the last generation took, in milliseconds; the subclasses say which. None if there is
            no pass to tell.
    """

    name: str
    pass_ms: float | None = None

    def __init__(self, workload: Workload) -> None:
        """Prepare; the model is as it was outside of `applied`."""
        self.workload, self.model = workload, workload.model

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Put on the model what stays on between generations."""
        yield

    def generate(self, **options: Any) -> Any:
        """Generate from the workload's prompts, with the method; `options` are those of `model.generate`."""
        model: Any = self.model
        return model.generate(**self.workload.inputs, **options)


class Vanilla(Method):
    """The unpatched model; `pass_ms` is the prompt's way through the text decoder, without vision tower and head."""

    name = VANILLA

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Time the decoder. See `Method.applied`."""
        decoder: Any = self.model.get_decoder()
        began = [0.0]

        def start(module: nn.Module, args: Any, kwargs: Any) -> None:
            synchronize(self.model.device)
            began[0] = time.perf_counter()

        def stop(module: nn.Module, args: Any, output: Any) -> None:
            if output.last_hidden_state.shape[1] > 1:  # the prompt, and not a decoded token
                synchronize(self.model.device)
                self.pass_ms = 1000 * (time.perf_counter() - began[0])

        with decoder.register_forward_pre_hook(start, with_kwargs=True), decoder.register_forward_hook(stop):
            yield


class Patched(Method):
    """A method of `scr.patch` with its defaults; `pass_ms` is its diagnostic pass, if it has one."""

    def __init__(self, workload: Workload, method: str, **fields: Any) -> None:
        """See `Method`.

        Args:
            workload: what to generate from.
            method: of `scr.list_methods()`.
            fields: of its configuration; what has no default, or is in words, is taken from its example.
        """
        super().__init__(workload)
        config, example = scr.get_method(method).config_class, scr.get_method(method).example
        # Words need a tokenizer, which these models lack.
        needed = [field.name for field in dataclasses.fields(config) if _is_required(field)] + list(config.phrases)
        self.method, self.fields = method, {**{name: example[name] for name in needed}, **fields}

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Patch the model. See `Method.applied`."""
        with scr.patch(self.model, self.method, **self.fields) as self._patched:
            yield

    def generate(self, **options: Any) -> Any:
        """See `Method.generate`."""
        output = super().generate(**options)
        if self._patched.leaves_traces:
            self.pass_ms = self._patched.traces[-1].milliseconds
        return output


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


class NaiveTwoPass(Method):
    """What a direct implementation of the paper does; `pass_ms` is the first of its two passes.

    A whole forward with eager attention and `output_attentions=True`, vision tower and head included, which holds the
    attention maps of all blocks; the sources from those maps; and hooks that redistribute in the prefill that follows,
    under the model's own kernel. It knows where the image is because it has made the prompt. What it edits is what SCR
    edits, and so are its logits up to rounding.
    """

    name = "naive"

    def __init__(self, workload: Workload) -> None:
        """See `Method`."""
        super().__init__(workload)
        self.config: Any = scr.patch(self.model).config
        self._image = slice(TEXT_BEFORE, TEXT_BEFORE + workload.size.image_tokens)

    def generate(self, **options: Any) -> Any:
        """See `Method.generate`."""
        synchronize(self.model.device)
        began = time.perf_counter()
        plans = self._plans()
        self.pass_ms = 1000 * (time.perf_counter() - began)
        layers: Any = self.model.get_decoder().layers

        def edit(module: nn.Module, args: Any, hidden: Tensor) -> Tensor | None:
            if hidden.shape[1] == 1:  # a decoded token
                return None
            hidden, beams = hidden.clone(), hidden.shape[0] // len(plans)
            for row, image in enumerate(hidden[:, self._image]):
                hidden[row, self._image] = redistribute(image, plans[row // beams], self.config.scale)
            return hidden

        with contextlib.ExitStack() as hooks:
            for layer in self.config.layers:
                hooks.enter_context(layers[layer].register_forward_hook(edit))
            return super().generate(**options)

    @torch.no_grad()
    def _plans(self) -> list[RedistributionPlan]:
        """One for each prompt."""
        self.model.set_attn_implementation("eager")
        try:
            maps = self.model(**self.workload.inputs, output_attentions=True).attentions
        finally:
            self.model.set_attn_implementation(ATTENTION)
        wanted = [maps[layer][:, :, -TEXT_AFTER:, self._image].float() for layer in self.config.attention_layers]
        attention = torch.stack([of_layer.mean(dim=(1, 2)) for of_layer in wanted]).mean(dim=0).cpu()
        grids = self.workload.size.grids
        return [
            plan_redistribution(
                [
                    part.reshape(grid)
                    for grid, part in zip(grids, row.split([height * width for height, width in grids]), strict=True)
                ],
                num_sources=self.config.num_sources,
            )
            for row in attention
        ]


_APART = "_processor"
Clock = Callable[[], float]
"""Tells seconds: `time.perf_counter` of the wall, `time.process_time` those that this process has had of its cores."""


def known_methods() -> list[str]:
    """What can be measured: the unpatched model, a naive two-pass, all of `scr.list_methods()`, and with `_processor`
    behind their names those that can run their branches in forwards of their own.
    """
    names = scr.list_methods()
    apart = [name + _APART for name in names if "engine" in scr.get_method(name).config_class.__dataclass_fields__]
    return [VANILLA, NaiveTwoPass.name, *names, *apart]


def method_on(workload: Workload, name: str) -> Method:
    """One of `known_methods`, on a workload.

    Raises:
        SCRError: if the method cannot work on its model.
    """
    if name in (VANILLA, NaiveTwoPass.name):
        return Vanilla(workload) if name == VANILLA else NaiveTwoPass(workload)
    method = Patched(workload, name.removesuffix(_APART), **({"engine": "processor"} if name.endswith(_APART) else {}))
    method.name = name
    return method


class Measurement(NamedTuple):
    """One generation.

    Attributes:
        token_ms: for each new token, milliseconds from the call of `generate` to its logits.
        pass_ms: see the method.
    """

    token_ms: list[float]
    pass_ms: float | None

    def until(self, tokens: int) -> float:
        """Milliseconds to the logits of that many tokens."""
        return self.token_ms[tokens - 1]

    @property
    def per_token(self) -> float:
        """Milliseconds of each token after the first, on average; NaN if there is no other."""
        later = len(self.token_ms) - 1
        return (self.token_ms[-1] - self.token_ms[0]) / later if later else float("nan")


@dataclass
class TokenClock(LogitsProcessor):
    """Passes logits through, and notes when those of each token arrive.

    Attributes:
        device: whose kernels to wait for.
        clock: tells seconds.
        times: what it told.
    """

    device: torch.device
    clock: Clock = time.perf_counter
    times: list[float] = field(default_factory=list)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Note the time."""
        synchronize(self.device)
        self.times.append(self.clock())
        return scores


def measure(method: Method, tokens: int, beams: int = 1, seconds: Clock = time.perf_counter) -> Measurement:
    """Time one generation of so many tokens, on a method that is applied.

    Passes are timed by the wall alone: by another clock there are none to tell.
    """
    clock, collects = TokenClock(method.model.device, seconds), gc.isenabled()
    gc.disable()  # a collection takes as long as several tokens, and would fall to one method or another
    try:
        synchronize(clock.device)
        began = seconds()
        method.generate(max_new_tokens=tokens, num_beams=beams, do_sample=False, logits_processor=[clock])
    finally:
        if collects:
            gc.enable()
    passed = method.pass_ms if seconds is time.perf_counter else None
    return Measurement([1000 * (at - began) for at in clock.times], passed)


def measure_rounds(
    methods: Sequence[Method],
    rounds: int,
    tokens: int,
    beams: int = 1,
    report: Callable[[str], None] = lambda line: None,
    seconds: Clock = time.perf_counter,
) -> Iterator[dict[str, Measurement]]:
    """Measure all methods in turn, round after round, so that what slows the machine down slows all of them.

    A first round, of few tokens, warms up and is not counted. `report` is told what is measured next; `seconds` is the
    clock.

    Yields:
        One round: name → measurement.
    """
    for number in range(rounds + 1):
        found = {}
        gc.collect()
        for method in methods:
            report(f"{f'round {number} of {rounds}' if number else 'warming up'}: {method.name}")
            with method.applied():
                found[method.name] = measure(method, tokens if number else min(tokens, 3), beams, seconds)
        if number:
            yield found


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """The most memory that `run` holds at any time, beyond what was held before it.

    On a GPU as the allocator tells it. On a CPU the tensors are counted: a resident set depends on what ran before and
    on when an allocator gives pages back, but the bytes of live tensors are the same at every run. What a kernel takes
    and returns within one call is not seen.
    """
    if device.type == "cuda":
        gc.collect()
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with _LiveBytes() as counted:
        run()
    return counted.peak


def operations(run: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and the attention in `run`, as torch counts them.

    The same at every run and on every machine: what is left of a ratio of times when noise and all else is taken away.
    """
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that operators return, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for storage in _storages((args, kwargs)):
            self._known.add(storage)  # counted when it was made, or older than the count
        output = func(*args, **(kwargs or {}))
        for storage in _storages(output):
            if storage not in self._known:
                self._known.add(storage)
                self.live += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return output

    def _freed(self, size: int) -> None:
        self.live -= size


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
