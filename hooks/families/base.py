"""The questions that every model family answers: where the decoder is, and which tokens are which image patches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import UnsupportedModelError


class PatchGrid(NamedTuple):
    """Height and width, in patches, of one raster of image tokens."""

    height: int
    width: int


@dataclass(frozen=True, eq=False)
class ImagePatches:
    """Where one image lies in one row of a prompt.

    Attributes:
        row: row of the batch.
        index: how many images come before it in that row.
        positions: token index, in this forward, of every patch: grid after grid, row-major within a grid; on the CPU.
            Separators such as newline tokens are left out.
        grids: the rasters, in the order of `positions`; tiles, thumbnails and video frames are grids of their own.
    """

    row: int
    index: int
    positions: Int[Tensor, "patches"]
    grids: tuple[PatchGrid, ...]


class ModelFamily(ABC):
    """One family of vision-language models. Subclasses are stateless; one file each."""

    name: ClassVar[str]
    summary: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    """Values of `config.model_type` that belong to the family."""
    edit_layers: ClassVar[range]
    """Blocks whose output SCR edits, as published for models of 24 blocks and more."""
    attention_layers: ClassVar[range] = range(8, 17)
    """Blocks whose attention SCR averages, likewise."""

    def decoder(self, model: PreTrainedModel) -> nn.Module:
        """The text decoder, whose `inputs_embeds` already hold the image features."""
        return model.get_decoder()

    def layers(self, model: PreTrainedModel) -> nn.ModuleList:
        """The decoder blocks, in order.

        Raises:
            UnsupportedModelError: if a block has no `self_attn` with a config, where attention could be read.
        """
        decoder: Any = self.decoder(model)
        layers: nn.ModuleList = decoder.layers
        for index, layer in enumerate(layers):
            if not hasattr(getattr(layer, "self_attn", None), "config"):
                raise UnsupportedModelError(
                    f"decoder block without readable attention: got {type(layer).__name__} at block {index}; "
                    "expected blocks with a `self_attn` module. Use a model whose every block has self-attention."
                )
        return layers

    def check(self, model: PreTrainedModel) -> None:
        """Raise UnsupportedModelError if this member of the family cannot be patched."""
        self.layers(model)

    def visual_token_ids(self, config: PreTrainedConfig) -> tuple[int, ...]:
        """Token ids that stand for image patches in a prompt."""
        return (config.image_token_id,)

    @abstractmethod
    def images(
        self, model: PreTrainedModel, visual: Bool[Tensor, "batch seq"], decoder_inputs: Mapping[str, Any]
    ) -> list[ImagePatches]:
        """Find the images of a prefill, row after row, in prompt order.

        Args:
            model: the model.
            visual: which tokens of this forward are image tokens; on the CPU.
            decoder_inputs: keyword arguments of the decoder: `inputs_embeds`, `position_ids`, ...

        Raises:
            PromptLayoutError: if the image tokens do not fit the grids; nothing is guessed.
        """
