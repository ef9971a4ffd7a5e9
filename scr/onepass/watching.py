"""What SCR would see in a batch of prompts: its maps and the decoder's inputs, and nothing computed after that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from .._hooks import HookStack, ImagePatches, PrefillSession, outside_generate
from ..methods.activations import ActivationsMethod
from ..methods.base import MethodConfig
from ..methods.scr import SCR, SCRConfig, SCRSession


@dataclass(frozen=True, eq=False, kw_only=True)
class Watched:
    """The images of a batch of prompts.

    Attributes:
        images: row after row, in prompt order.
        embeds: the decoder's merged input embeddings: layer-0 states.
        attention: SCR's map of each image, on the CPU; none where only the states were asked for.
    """

    images: Sequence[ImagePatches]
    embeds: Float[Tensor, "batch seq width"]
    attention: Sequence[Float[Tensor, "patches"]] = ()


class _Seen(BaseException):
    """Ends a forward at what was to be seen; not an Exception, so that nobody's `except` swallows it."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched


class _MapsOnly(SCR):
    def open(
        self,
        images: Sequence[ImagePatches],
        embeds: Float[Tensor, "batch seq dim"],
        copies: int,
        digests: Callable[[], Mapping[tuple[int, int], str]],
    ) -> SCRSession:
        return _MapsSession(self, images, embeds, [], copies)


class _MapsSession(SCRSession):
    def __init__(self, method: SCR, images: Any, embeds: Any, generators: Any, copies: int) -> None:
        self._embeds = embeds
        super().__init__(method, images, embeds, generators, copies)

    def spread(self, attention: Sequence[Float[Tensor, "patches"]], milliseconds: float) -> NoReturn:
        raise _Seen(Watched(images=self._images, embeds=self._embeds, attention=attention))


class _StatesOnly(ActivationsMethod):
    name, paper, config_class = "states", "–", MethodConfig

    def open(self, images: Any, embeds: Any, copies: int, digests: Any) -> PrefillSession:
        raise _Seen(Watched(images=images, embeds=embeds))


def watch_maps(model: Any, inputs: Mapping[str, Any], config: SCRConfig) -> Watched:
    """States and maps of a batch; the decoder runs to the last of the attention layers, and no further.

    Args:
        model: of a supported family.
        inputs: the processor's, on the model's device.
        config: of two-pass SCR.

    Raises:
        ConfigError, UnsupportedModelError, PromptLayoutError, NotFiniteError: as under `scr.patch`.
    """
    return _watch(model, inputs, _MapsOnly(model, config))


def watch_states(model: Any, inputs: Mapping[str, Any]) -> Watched:
    """States of a batch; no block of the decoder runs. Arguments: see `watch_maps`."""
    return _watch(model, inputs, _StatesOnly(model, MethodConfig()))


def _watch(model: Any, inputs: Mapping[str, Any], method: ActivationsMethod) -> Watched:
    with _installed(model, method), torch.no_grad():
        try:
            model(**inputs, use_cache=False)
        except _Seen as seen:
            return seen.watched
    return Watched(images=[], embeds=torch.zeros(0, 0, 0, device="cpu"))


@contextmanager
def _installed(model: Any, method: ActivationsMethod) -> Iterator[None]:
    with HookStack() as stack, outside_generate():
        method.install(model, stack)
        yield
