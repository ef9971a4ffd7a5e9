"""What a method that edits image prefills is asked, and what the diagnostic pass tells it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import NotFiniteError
from ..families import ImagePatches
from .digests import Digests

Readers = Literal["text", "image"]


@dataclass
class Diagnosis:
    """What the diagnostic pass read.

    Attributes:
        maps: layer → attention to every token, per row and image, averaged over heads and over those who look: see
            `PrefillMethod.reads_of`; on the CPU.
        milliseconds: wall time of the pass, for the whole batch.
        head_maps: the same of every head, where a method asks for them; else empty.
    """

    maps: dict[int, Float[Tensor, "batch images seq"]]
    milliseconds: float
    head_maps: dict[int, Float[Tensor, "batch heads images seq"]] = field(default_factory=dict)

    def attention(self, images: Sequence[ImagePatches], layers: Sequence[int]) -> list[Float[Tensor, "patches"]]:
        """Mean over `layers` of each image's own map, in the order of `images`.

        Raises:
            NotFiniteError: naming the first image whose map holds no numbers.
        """
        mean = torch.stack([self.maps[layer] for layer in layers]).mean(dim=0)
        own = [mean[image.row, image.index, image.positions] for image in images]
        _require_finite(images, own)
        return own

    def attention_by_head(
        self, images: Sequence[ImagePatches], layers: Sequence[int]
    ) -> list[Float[Tensor, "layers heads patches"]]:
        """Each image's own maps, head by head, of a method that `reads_heads`; in the order of `images`.

        Raises:
            NotFiniteError: as `attention`.
        """
        maps = [self.head_maps[layer] for layer in layers]
        own = [torch.stack([one[image.row, :, image.index, image.positions] for one in maps]) for image in images]
        _require_finite(images, own)
        return own


def _require_finite(images: Sequence[ImagePatches], maps: Sequence[Tensor]) -> None:
    for image, attention in zip(images, maps, strict=True):
        if not attention.isfinite().all():
            raise NotFiniteError(
                f"attention to image {image.index} of row {image.row} is not finite: got NaN; expected numbers. "
                "Look for NaN in its pixels and in the model's weights, or load the model in a wider number format."
            )


class PrefillSession(Protocol):
    """A method's part in one prefill; a class that derives from it says only what it does."""

    planned: bool = False
    """Whether it knows already what to edit, of a method that reads attention: it is then asked to `edit` and `close`
    alone, and where nobody else reads there is no diagnostic pass."""

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

    attention_layers: Sequence[int]
    """Blocks whose attention it reads. A method without any is asked nothing before the real pass, which is then the
    only one, unless another method's diagnostic goes before it; and sees images that no text comes after, too."""
    reads_of: Readers = "text"
    """Whose attention to an image it reads: of the text after it, or of its own last row of patches, which sees the
    rest of the image and no question."""
    reads_heads: bool = False
    """Whether it wants the attention of each head of these blocks too: see `Diagnosis.attention_by_head`."""

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
