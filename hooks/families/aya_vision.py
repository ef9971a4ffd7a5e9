"""Aya Vision: every tile is a square grid and a run of its own after a marker, the overview last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import PromptLayoutError
from .base import ImagePatches, ModelFamily, PatchGrid, runs_by_image


class AyaVision(ModelFamily):
    """`AyaVisionForConditionalGeneration`: `CohereLabs/aya-vision-8b` and its kin."""

    name: ClassVar[str] = "aya_vision"
    summary: ClassVar[str] = "Aya Vision: one grid per tile, the overview its own"
    model_types: ClassVar[tuple[str, ...]] = ("aya_vision",)
    edit_layers: ClassVar[range] = range(0, 12)  # LLaVA-1.5's, of as many blocks; the paper has no Aya Vision
    whole_picture: ClassVar[int | None] = -1

    def tile_side(self, model: PreTrainedModel) -> int:
        """Of a tile, in image tokens."""
        config: Any = model.config
        return config.vision_config.image_size // config.vision_config.patch_size // config.downsample_factor

    def frame_tokens(
        self, model: PreTrainedModel, visual: Bool[Tensor, "batch seq"], ids: Int[Tensor, "batch seq"]
    ) -> Bool[Tensor, "batch seq"]:
        """All between the tiles of an image, its first and last token and the first tile's marker.

        That marker has as many tokens as the second tile's, and one where the overview is alone; see
        `ModelFamily.frame_tokens`.
        """
        framing = torch.zeros_like(visual)
        for row, tokens in enumerate(ids):
            for tiles in runs_by_image(visual[row], tokens[:, None]):
                first, last = int(tiles[0][0]), int(tiles[-1][-1])
                marker = int(tiles[1][0] - tiles[0][-1]) - 1 if len(tiles) > 1 else 1
                framing[row, max(0, first - marker - 1) : last + 2] = True
        return framing & ~visual

    def images(
        self, model: PreTrainedModel, visual: Bool[Tensor, "batch seq"], decoder_inputs: Mapping[str, Any]
    ) -> list[ImagePatches]:
        """Join the runs of each image's tiles. See `ModelFamily.images`."""
        side = self.tile_side(model)
        embeds, found = decoder_inputs["inputs_embeds"].detach(), []
        for row, row_visual in enumerate(visual):
            for index, tiles in enumerate(runs_by_image(row_visual, embeds[row])):
                if any(len(tile) != side**2 for tile in tiles):
                    raise PromptLayoutError(
                        f"image tokens of row {row} do not fit the tiles: got runs of {[len(tile) for tile in tiles]}; "
                        f"expected {side**2} ({side} × {side}) each. Build the prompt with the model's own processor."
                    )
                found.append(ImagePatches(row, index, torch.cat(tiles), (PatchGrid(side, side),) * len(tiles)))
        return found
