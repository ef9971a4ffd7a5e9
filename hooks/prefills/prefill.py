"""Run a diagnostic pass once per image prefill, for methods that read attention, and let methods edit the prefill.

Inside the real forward of a prompt with images, just before the text decoder starts, the decoder is run once more on
the same merged embeddings and on a fork of the cache, stops at the last attention layer that anybody wants, and leaves
no trace; the vision tower has run once. What it read goes to the methods, which edit the blocks' outputs of the real
pass. Where nobody wants attention there is the real pass alone.

One dispatcher per model serves all methods on it, so that they can be removed in any order: its hooks go on with the
first method and come off with the last. Hooks stay on between calls and act on the state of one call or thread alone,
because other threads may be running the model: each call of `generate` keeps the methods that it began with.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from transformers import PreTrainedModel

from .. import compat
from ..errors import SCRError, UnsupportedGenerationError
from ..families import ImagePatches, find_family
from ..generation import GenerateCall, current_calls, inside_unwatched, watch_generate
from ..installing.compiled import eager_prefills
from ..installing.forks import INSTALLING, tell_of_forks
from ..installing.interrupts import uninterrupted
from ..installing.per_model import PerModel
from ..installing.running import base_of, when_idle
from ..installing.stack import HookStack
from ..residual import after_blocks, hidden_of
from .attention import AttentionReader, read_attention
from .cache import first_key_column, fork, past_length
from .digests import Digests, prefill_digests
from .expansion import prompt_copies, without_copies
from .finite import require_finite_images, require_finite_pixels
from .queries import any_visual, image_queries, real_tokens, surrounded, text_queries, visual_input
from .sessions import Diagnosis, PrefillMethod, PrefillSession, Readers


@dataclass
class _Prompt:
    """What a forward cannot know about the `generate` that it is part of.

    `methods` are those that the call began with.
    `image` is what its first prefill carried, at the tokens `visual`. A forward inside the call that carries another
    one, such as the second branch of a contrastive method, is none of the call's own.
    """

    given: Mapping[str, Any]
    prompt_end: int | None
    prompt_rows: int | None
    chunked: bool
    methods: tuple[PrefillMethod, ...]
    image: object | None = None
    visual: Bool[Tensor, "batch prompt"] | None = None
    sessions: list[PrefillSession] | None = None
    frame: _Frame | None = None


@dataclass
class _Frame:
    """One forward of a prompt with images, on one thread."""

    inputs: Mapping[str, Any]
    visual: Bool[Tensor, "batch seq"]
    text: Bool[Tensor, "batch seq"]
    methods: tuple[PrefillMethod, ...]
    call: _Prompt | None = None
    sessions: list[PrefillSession] | None = None
    diagnosing: bool = False
    decoded: bool = False
    fresh: bool = True


class _Local(threading.local):
    """The frame is that of a forward outside of `generate`."""

    frame: _Frame | None = None
    paused: bool = False


class PrefillDispatcher:
    """All that is installed on one model, and the methods it serves. Get it by `dispatcher(model)`."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._base = model.base_model
        self._family = find_family(model)
        self._methods: tuple[PrefillMethod, ...] = ()
        self._installed: HookStack | None = None
        self._eager: dict[nn.Module, HookStack] = {}
        self._watched: dict[nn.Module, HookStack] = {}
        self._local = _Local()
        self._diagnosing = threading.RLock()
        self.forwards = 0  # seen while installed, of any kind
        tell_of_forks(self)

    def attach(self, method: PrefillMethod, model: PreTrainedModel) -> None:
        """Serve `method` from the next forward on, of `model`, which is this dispatcher's or its base model.

        What fails half-way is undone by `detach`.
        """
        uninterrupted(self._attach, method, model)

    def _attach(self, method: PrefillMethod, model: PreTrainedModel) -> None:
        with INSTALLING:
            self._methods = (*self._methods, method)
            if self._installed is None:
                compat.check_transformers()
                self._installed = HookStack()
                self._install(self._installed)
            for called in (self._base, model):
                # Hooks may still be there for a call of another thread, when its methods have gone.
                if called not in self._eager:
                    self._eager[called] = HookStack()
                    eager_prefills(self._eager[called], called, self._saw_a_forward)
                if called not in self._watched:
                    self._watched[called] = HookStack()
                    watch_generate(called, self._begin, self._watched[called])

    def detach(self, method: PrefillMethod) -> None:
        """Stop serving `method`; when the last one goes, the model is as it was, as soon as no call needs the hooks."""
        uninterrupted(self._detach, method)

    def _detach(self, method: PrefillMethod) -> None:
        with INSTALLING:
            self._methods = tuple(other for other in self._methods if other is not method)
            if not self._methods:
                for stack in self._watched.values():
                    stack.close()
                self._watched = {}
                when_idle(self._base, self._settle)

    def _settle(self) -> None:
        if self._methods or self._installed is None:
            return
        for stack in (self._installed, *self._eager.values()):
            stack.close()
        self._installed, self._eager = None, {}

    def forked(self) -> None:
        """Whoever was in a diagnostic is not in this process."""
        self._diagnosing = threading.RLock()

    def watch_compiled(self, wrapper: nn.Module, stack: HookStack) -> None:
        """See image prefills that are called through what `torch.compile(model)` returned, until `stack` is closed."""
        eager_prefills(stack, wrapper, self._saw_a_forward)

    @contextlib.contextmanager
    def paused(self, pause: bool = True) -> Iterator[None]:
        """Inside the `with`, image prefills on this thread are left as they are, if `pause`."""
        before, self._local.paused = self._local.paused, pause or self._local.paused
        try:
            yield
        finally:
            self._local.paused = before

    def _saw_a_forward(self) -> None:
        self.forwards += 1

    def _install(self, stack: HookStack) -> None:
        stack.forward_pre_hook(self._base, self._before_model)
        stack.forward_hook(self._base, self._after_model, always_call=True)
        stack.forward_pre_hook(self._family.decoder(self._model), self._before_decoder)
        after_blocks(stack, self._family, self._model, self._after_layer)

    def _begin(self, call: GenerateCall) -> None:
        """Tell the forwards inside a `generate` how long the prompt is, and whom they serve."""
        call.kept[self] = _prompt_of(call, self._methods)

    def _state(self) -> _Prompt | _Local | None:
        """The state of the forward that this thread is in; None in a call that began before anything was attached."""
        for call in current_calls():
            if base_of(call.model) is self._base:
                return call.kept.get(self)
        return self._local

    def _frame(self) -> _Frame | None:
        state = self._state()
        return None if state is None else state.frame

    def _before_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        state = None if torch.compiler.is_compiling() else self._state()
        if state is None or (state.frame is not None and state.frame.diagnosing):
            return
        state.frame = None
        inputs = _named(module, args, kwargs)
        image = None if self._local.paused else visual_input(inputs)
        if image is None or (inputs.get("input_ids") is None and inputs.get("inputs_embeds") is None):
            return  # the latter is for the model itself to refuse
        call = state if isinstance(state, _Prompt) else None
        methods = self._methods if call is None else call.methods
        if not methods or (call is None and any(map(inside_unwatched, self._watched))):
            return
        if call is not None and call.image is not None and call.image is not image:
            call = None
        if call is not None and call.chunked:
            raise UnsupportedGenerationError(
                "an image prompt cannot be prefilled in chunks under a patch: got prefill_chunk_size; expected None, "
                "since a chunk may part the image from its question. Generate without prefill_chunk_size."
            )
        visual = any_visual(self._family, self._model, inputs)
        text = real_tokens(inputs, *visual.shape) & ~visual
        if call is not None and call.prompt_end is not None:
            # What comes after the prompt: candidates of assisted decoding, or generated tokens without a cache.
            end = max(0, call.prompt_end - past_length(inputs.get("past_key_values")))
            visual[:, end:] = text[:, end:] = False
        if not visual.any():
            return
        frame = _Frame(inputs, visual, text, methods)
        if call is not None and call.visual is None:
            call.image, call.visual, frame.call = image, visual, call
        elif call is not None and call.visual is not None and _begins_with(visual, call.visual):
            # Without a cache every step is a prefill: the plan of the first one holds for the whole call.
            frame.sessions, frame.fresh = call.sessions, False
        state.frame = frame

    def _before_decoder(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        state = None if torch.compiler.is_compiling() else self._state()
        if state is None or state.frame is None or state.frame.diagnosing:
            return None
        frame = state.frame
        given = _named(module, args, kwargs)
        inputs = self._family.decoder_inputs(self._model, given)
        embeds = inputs.get("inputs_embeds")
        if frame.decoded or (embeds is not None and embeds.shape[:2] != frame.visual.shape):
            state.frame = None  # left over from a forward that was interrupted
            return None
        frame.decoded = True
        if frame.sessions is not None or embeds is None or inputs.get("input_ids") is not None:
            return None  # planned already; or what the model itself refuses
        frame.sessions = self._open(module, inputs, frame)
        if frame.call is not None:
            frame.call.sessions = frame.sessions
        return None if inputs is given else ((), dict(inputs))

    def _open(self, decoder: Any, inputs: Mapping[str, Any], frame: _Frame) -> list[PrefillSession]:
        """The sessions of one prefill, in the order of their methods; those that read attention have planned."""
        copies = prompt_copies(inputs, frame.call.prompt_rows if frame.call is not None else None)
        inputs, visual, text = without_copies(inputs, copies), frame.visual[::copies], frame.text[::copies]
        cache = inputs.get("past_key_values")
        found = self._family.images(self._model, visual, inputs)
        images = surrounded(found, text, visual | text, past_length(cache))
        if not images:
            return []
        digests = functools.partial(self._digests, frame, images, visual | text)
        wanted = sorted({layer for method in frame.methods for layer in method.attention_layers})
        seen = _seen_by_text(images) if wanted else images
        sessions: list[PrefillSession] = []
        reading: dict[Readers, list[PrefillSession]] = {}
        for method in frame.methods:
            if own := seen if method.attention_layers else images:
                if not method.attention_layers:
                    require_finite_images(own, inputs["inputs_embeds"])
                sessions.append(session := method.open(own, inputs["inputs_embeds"], copies, digests))
                if method.attention_layers and not session.planned:
                    reading.setdefault(method.reads_of, []).append(session)
        for readers, own_sessions in reading.items():
            queries = (text_queries if readers == "text" else image_queries)(images, *visual.shape)
            first = {layer: first_key_column(cache, layer, visual.shape[1]) for layer in wanted}
            by_head = any(method.reads_heads for method in frame.methods)
            self._diagnose(decoder, inputs, frame, AttentionReader(*queries, first, by_head), own_sessions)
        return sessions

    def _diagnose(
        self,
        decoder: Any,
        inputs: Mapping[str, Any],
        frame: _Frame,
        reader: AttentionReader,
        sessions: list[PrefillSession],
    ) -> None:
        cache = inputs.get("past_key_values")
        inputs = {**inputs, "past_key_values": fork(cache), "use_cache": cache is not None}
        inputs.pop("output_attentions", None)
        inputs.pop("output_hidden_states", None)
        frame.sessions = sessions
        # The lock, because two threads must not swap the same configs; the modules are shared, the reader is not.
        with self._diagnosing, torch.no_grad(), _random_state_kept(decoder, inputs["inputs_embeds"].device):
            began = time.perf_counter()
            try:
                frame.diagnosing = True
                read_attention(self._family.attention_modules(self._model), reader, lambda: decoder(**inputs))
            finally:
                frame.diagnosing = False
            maps = {layer: mean.cpu() for layer, mean in reader.maps.items()}  # also waits for the device
            heads = {layer: own.cpu() for layer, own in reader.head_maps.items()}
            diagnosis = Diagnosis(maps, 1000 * (time.perf_counter() - began), heads)
        if all(bool(seen.isfinite().all()) for seen in maps.values()):
            require_finite_pixels(_given(frame))  # a tower that quantises makes codes of NaN
        with torch.inference_mode(False), torch.no_grad():  # plans outlive the user's inference mode, in traces
            for session in sessions:
                session.plan(diagnosis)

    def _digests(self, frame: _Frame, images: Sequence[ImagePatches], real: Bool[Tensor, "rows seq"]) -> Digests:
        rows = None if frame.call is None else frame.call.prompt_rows
        copies = len(real) // rows if rows else 1
        return prefill_digests(self._model, images, frame.inputs, real, _given(frame), max(1, copies))

    def _after_layer(self, layer: int, output: Any) -> Any:
        frame = None if torch.compiler.is_compiling() else self._frame()
        if frame is None or not frame.sessions:
            return None
        if frame.diagnosing:
            for session in frame.sessions:
                session.observe(layer, hidden_of(output))
            return None
        for session in frame.sessions:
            output = session.edit(layer, output)
        return output

    def _after_model(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        state = None if torch.compiler.is_compiling() else self._state()
        if state is None or state.frame is None or state.frame.diagnosing:
            return
        frame, state.frame = state.frame, None
        if output is None:  # the forward raised
            return
        if not frame.decoded:
            raise SCRError(
                "the text decoder never ran in a forward with images: got a model whose forward bypasses its decoder "
                "module; expected `get_decoder()` to be called. Patch the uncompiled model."
            )
        if frame.fresh:
            for session in frame.sessions or ():
                session.close()


def _seen_by_text(images: Sequence[ImagePatches]) -> list[ImagePatches]:
    """Those that text comes after; a warning about the others, which methods that read attention leave alone."""
    seen = [image for image in images if len(image.text)]
    if blind := len(images) - len(seen):
        warnings.warn(
            f"{blind} image(s) left as they are: no text comes after them in the prompt, so nothing attends to them. "
            "Put the question after the image.",
            stacklevel=2,
        )
    return seen


def _begins_with(visual: Bool[Tensor, "batch seq"], prompt: Bool[Tensor, "batch prompt"]) -> bool:
    return visual.shape[0] == prompt.shape[0] and torch.equal(visual[:, : prompt.shape[1]], prompt)


def _random_state_kept(decoder: nn.Module, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """In training mode dropout draws numbers: the diagnostic must not change those of the real pass."""
    if not decoder.training:
        return contextlib.nullcontext()
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _named(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a forward by name, positional ones included."""
    module_class: Any = type(module)
    return {**dict(zip(_parameters(module_class), args, strict=False)), **kwargs}


@functools.cache
def _parameters(module_class: type[nn.Module]) -> tuple[str, ...]:
    return tuple(inspect.signature(module_class.forward).parameters)[1:]


def _prompt_of(call: GenerateCall, methods: tuple[PrefillMethod, ...]) -> _Prompt:
    prompt = call.arguments.get("inputs")
    for name in ("input_ids", "inputs_embeds"):
        prompt = call.arguments.get(name) if prompt is None else prompt
    mask = call.arguments.get("attention_mask")
    # In a later turn a caller may give only the new tokens, with a mask over all of them.
    lengths = [value.shape[1] for value in (prompt, mask) if isinstance(value, Tensor) and value.ndim >= 2]
    rows = prompt.shape[0] if isinstance(prompt, Tensor) else None
    chunked = call.setting("prefill_chunk_size") is not None
    return _Prompt(call.given, max(lengths, default=None), rows, chunked, methods)


_DISPATCHERS = PerModel[PrefillDispatcher]()


def dispatcher(model: PreTrainedModel) -> PrefillDispatcher:
    """The model's dispatcher, shared with its base model; nothing is installed before a method is attached."""
    return _DISPATCHERS.get(model.base_model, lambda: PrefillDispatcher(model))


def _given(frame: _Frame) -> Mapping[str, Any]:
    """Where the pixels are: `generate` may have encoded them before its first forward."""
    return frame.inputs if frame.call is None else frame.call.given
