"""What methods that act on activations have in common: a session for each prefill of a prompt with images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from .._hooks import HookStack, ImagePatches, PrefillSession, Readers, dispatcher, find_family
from .base import Lever, Method, MethodConfig


class ActivationsMethod(Method):
    """A method that edits what decoder blocks put out, at every prefill of a prompt with images; others are left alone.

    Its sessions derive from `hooks.PrefillSession`.
    """

    requires: ClassVar[tuple[Lever, ...]] = ("activations",)
    in_any_forward: ClassVar[bool] = True
    attention_layers: Sequence[int] = ()
    """Blocks whose attention of the prompt it reads, in a diagnostic pass before the real one; without any there is no
    such pass, and its sessions are asked to `edit` and to `close` alone."""
    reads_of: Readers = "text"
    """Whose attention to an image: of the text after it, or of its own last row of patches."""
    reads_heads: bool = False
    """Whether it reads the attention of each head of them, too."""

    def __init__(self, model: PreTrainedModel, config: MethodConfig) -> None:
        """See `Method`."""
        find_family(model).check(model)
        self.config = config

    @abstractmethod
    def open(
        self,
        images: Sequence[ImagePatches],
        embeds: Float[Tensor, "batch seq dim"],
        copies: int,
        digests: Callable[[], Mapping[tuple[int, int], str]],
    ) -> PrefillSession:
        """Start one prefill. See `hooks.PrefillMethod`."""

    def install(self, model: PreTrainedModel, stack: HookStack) -> None:
        """See `Method`."""
        served = dispatcher(model)
        stack.callback(served.detach, self)
        served.attach(self, model)
