"""Idefics3 and SmolVLM: every tile is a square grid and a run of its own, with marker tokens in between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import PromptLayoutError
from .base import ImagePatches, ModelFamily, PatchGrid, visual_runs


class Idefics3(ModelFamily):
    """`Idefics3ForConditionalGeneration`, `SmolVLMForConditionalGeneration`: `HuggingFaceTB/SmolVLM2-2.2B-Instruct`."""

    name: ClassVar[str] = "idefics3"
    summary: ClassVar[str] = "Idefics3, SmolVLM, SmolVLM2: one grid per tile, the overview its own"
    model_types: ClassVar[tuple[str, ...]] = ("idefics3", "smolvlm")
    edit_layers: ClassVar[range] = range(0, 12)  # LLaVA-1.5's; the paper has no Idefics3

    def images(
        self, model: PreTrainedModel, visual: Bool[Tensor, "batch seq"], decoder_inputs: Mapping[str, Any]
    ) -> list[ImagePatches]:
        """Join the runs of each image's tiles. See `ModelFamily.images`."""
        config: Any = model.config
        side = config.vision_config.image_size // config.vision_config.patch_size // config.scale_factor
        embeds, found = decoder_inputs["inputs_embeds"].detach(), []
        for row, row_visual in enumerate(visual):
            runs = visual_runs(row_visual)
            for run in runs:
                if len(run) % side**2:
                    raise PromptLayoutError(
                        f"image tokens of row {row} do not fit the tiles: got a run of {len(run)}; expected a multiple "
                        f"of {side**2} ({side} × {side} per tile). Build the prompt with the model's own processor."
                    )
            for index, tiles in enumerate(_images(runs, embeds[row])):
                positions = torch.cat(tiles)
                found.append(
                    ImagePatches(row, index, positions, (PatchGrid(side, side),) * (len(positions) // side**2))
                )
        return found


def _images(runs: list[Tensor], embeds: Float[Tensor, "seq dim"]) -> list[list[Tensor]]:
    """Runs grouped by image.

    One fake token opens each tile, one more closes an image: so two between runs part images. It is told by its
    embedding, since ids are not always given, and found where the last image must be closed.
    """
    images: list[list[Tensor]] = []
    for previous, run in zip([None, *runs], runs, strict=False):
        if previous is not None and run is not None:
            closing = min(int(runs[-1][-1]) + 1, len(embeds) - 1)
            between = embeds[int(previous[-1]) + 1 : int(run[0])]
            if int((between == embeds[closing]).all(dim=-1).sum()) < 2:
                images[-1].append(run)
                continue
        images.append([run])
    return images
