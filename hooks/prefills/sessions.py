"""What a method that edits image prefills is asked, and what the diagnostic pass tells it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import NotFiniteError
from ..families import ImagePatches
from .digests import Digests


@dataclass
class Diagnosis:
    """What the diagnostic pass read.

    Attributes:
        maps: layer → attention of the text to every token, per row and image, averaged over heads and text tokens;
            on the CPU.
        milliseconds: wall time of the pass, for the whole batch.
    """

    maps: dict[int, Float[Tensor, "batch images seq"]]
    milliseconds: float

    def attention(self, images: Sequence[ImagePatches], layers: range) -> list[Float[Tensor, "patches"]]:
        """Mean over `layers` of each image's own map, in the order of `images`.

        Raises:
            NotFiniteError: naming the first image whose map holds no numbers.
        """
        mean = torch.stack([self.maps[layer] for layer in layers]).mean(dim=0)
        own = [mean[image.row, image.index, image.positions] for image in images]
        for image, attention in zip(images, own, strict=True):
            if not attention.isfinite().all():
                raise NotFiniteError(
                    f"attention to image {image.index} of row {image.row} is not finite: got NaN; expected numbers. "
                    "Look for NaN in its pixels and in the model's weights, or load the model in a wider number format."
                )
        return own


class PrefillSession(Protocol):
    """A method's part in one prefill; a class that derives from it says only what it does."""

    def observe(self, layer: int, hidden: Float[Tensor, "batch seq dim"]) -> None:
        """See the unedited output of a block, during the diagnostic pass; of a method that reads attention."""
        return

    def plan(self, diagnosis: Diagnosis) -> None:
        """Decide what to edit, after the diagnostic pass; of a method that reads attention."""
        return

    def edit(self, layer: int, output: Any) -> Any:
        """Return the block's output, edited or as it is, during the real pass."""

    def close(self) -> None:
        """The prefill is complete."""
        return


class PrefillMethod(Protocol):
    """A method that edits image prefills."""

    attention_layers: range
    """Blocks whose attention it reads. A method without any is asked nothing before the real pass, which is then the
    only one, unless another method's diagnostic goes before it; and sees images that no text comes after, too."""

    def open(
        self,
        images: Sequence[ImagePatches],
        embeds: Float[Tensor, "batch seq dim"],
        copies: int,
        digests: Callable[[], Digests],
    ) -> PrefillSession:
        """Start one prefill, given its images, the decoder's merged input embeddings, and a way to key noise by image.

        Beam search and `num_return_sequences` repeat every row of a prompt: the diagnostic runs on the prompt's own
        rows, which `images` and `embeds` count, and row r of them is rows r · copies to (r + 1) · copies − 1 of what
        `edit` gets.
        """
