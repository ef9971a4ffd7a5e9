"""Command A Vision: every tile is a square grid and a run of its own, which one token ends, the overview last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import PromptLayoutError
from .base import ImagePatches, ModelFamily, PatchGrid, visual_runs


class Cohere2Vision(ModelFamily):
    """`Cohere2VisionForConditionalGeneration`: `CohereLabs/command-a-vision-07-2025` and its kin."""

    name: ClassVar[str] = "cohere2_vision"
    summary: ClassVar[str] = "Command A Vision: one grid per tile, the overview its own"
    model_types: ClassVar[tuple[str, ...]] = ("cohere2_vision",)
    # LLaVA-1.5's share of 32 blocks, of the 64; the paper has no Command A.
    edit_layers: ClassVar[range] = range(0, 24)
    attention_layers: ClassVar[range] = range(16, 34)
    whole_picture: ClassVar[int | None] = -1

    def frame_tokens(
        self, model: PreTrainedModel, visual: Bool[Tensor, "batch seq"], ids: Int[Tensor, "batch seq"]
    ) -> Bool[Tensor, "batch seq"]:
        """What begins an image, ends each tile and ends the image. See `ModelFamily.frame_tokens`."""
        framing = torch.zeros_like(visual)
        for row, row_visual in enumerate(visual):
            for tiles in _images(row_visual):
                framing[row, max(0, int(tiles[0][0]) - 1) : int(tiles[-1][-1]) + 3] = True
        return framing & ~visual

    def images(
        self, model: PreTrainedModel, visual: Bool[Tensor, "batch seq"], decoder_inputs: Mapping[str, Any]
    ) -> list[ImagePatches]:
        """Join the runs of each image's tiles. See `ModelFamily.images`."""
        config: Any = model.config
        side = config.vision_config.image_size // config.vision_config.patch_size // config.downsample_factor
        found = []
        for row, row_visual in enumerate(visual):
            for index, tiles in enumerate(_images(row_visual)):
                if any(len(tile) != side**2 for tile in tiles):
                    raise PromptLayoutError(
                        f"image tokens of row {row} do not fit the tiles: got runs of {[len(tile) for tile in tiles]}; "
                        f"expected {side**2} ({side} × {side}) each. Build the prompt with the model's own processor."
                    )
                found.append(ImagePatches(row, index, torch.cat(tiles), (PatchGrid(side, side),) * len(tiles)))
        return found


def _images(visual: Bool[Tensor, "seq"]) -> list[list[Int[Tensor, "tokens"]]]:
    """Runs grouped by image: one token stands between two tiles, and three or more between two images."""
    images: list[list[Tensor]] = []
    for run in visual_runs(visual):
        if images and run[0] - images[-1][-1][-1] == 2:
            images[-1].append(run)
        else:
            images.append([run])
    return images
