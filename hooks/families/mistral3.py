"""Mistral 3: a grid of the image's own shape; break tokens, which are text, end its rows, and an end token the last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import PromptLayoutError
from ..towers import attention_received
from .base import ImagePatches, ModelFamily, PatchGrid, pixel_misfit, runs_by_image


class Mistral3(ModelFamily):
    """`Mistral3ForConditionalGeneration`: `mistralai/Mistral-Small-3.1-24B-Instruct-2503` and its kin."""

    name: ClassVar[str] = "mistral3"
    summary: ClassVar[str] = "Mistral Small 3.1, 3.2: a grid of the image's own shape; break tokens are left alone"
    model_types: ClassVar[tuple[str, ...]] = ("mistral3",)
    # LLaVA-1.5's share of 32 blocks, of the 24B's 40; the paper has no Mistral.
    edit_layers: ClassVar[range] = range(0, 15)
    attention_layers: ClassVar[range] = range(10, 21)

    def frame_tokens(
        self, model: PreTrainedModel, visual: Bool[Tensor, "batch seq"], ids: Int[Tensor, "batch seq"]
    ) -> Bool[Tensor, "batch seq"]:
        """`[IMG_BREAK]` and `[IMG_END]`: what follows a row of an image. See `ModelFamily.frame_tokens`."""
        framing = torch.zeros_like(visual)
        framing[:, 1:] = visual[:, :-1] & ~visual[:, 1:]
        return framing

    def images(
        self, model: PreTrainedModel, visual: Bool[Tensor, "batch seq"], decoder_inputs: Mapping[str, Any]
    ) -> list[ImagePatches]:
        """Join the rows of each image. See `ModelFamily.images`."""
        embeds, found = decoder_inputs["inputs_embeds"].detach(), []
        for row, row_visual in enumerate(visual):
            for index, lines in enumerate(runs_by_image(row_visual, embeds[row])):
                width, positions = len(lines[0]), torch.cat(lines)
                steps = torch.arange(len(lines), device="cpu") * (width + 1)
                raster = lines[0][0] + steps[:, None] + torch.arange(width, device="cpu")
                if not torch.equal(positions, raster.flatten()):
                    raise PromptLayoutError(
                        f"image tokens of row {row} are no patch grid: got runs of {[len(line) for line in lines]}; "
                        "expected rows of one width, each with one token after it, another one after the last row. "
                        "Build the prompt with the model's own processor."
                    )
                found.append(ImagePatches(row, index, positions, (PatchGrid(len(lines), width),)))
        return found

    def map_pixels(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, Any],
        change: Callable[[Float[Tensor, "tiles 3 height width"]], Float[Tensor, "tiles 3 height width"]],
        name: str = "pixel_values",
    ) -> Tensor:
        """Leave what is padded out, at the right and below. See `ModelFamily.map_pixels`."""
        pixels, sizes = inputs[name], inputs.get("image_sizes")
        if pixels.ndim != 4 or sizes is None or len(sizes) != len(pixels):
            raise pixel_misfit(name, pixels, "(images, 3, height, width) with a row of `image_sizes` per image")
        changed = pixels.clone()
        for image, (height, width) in zip(changed, torch.as_tensor(sizes).tolist(), strict=True):
            image[:, :height, :width] = change(image[None, :, :height, :width].clone())[0]
        return changed

    def salience(
        self, model: PreTrainedModel, tiles: Float[Tensor, "tiles 3 height width"]
    ) -> Float[Tensor, "tiles rows columns"]:
        """See `ModelFamily.salience`."""
        tower: Any = model.base_model.vision_tower
        height, width = tiles.shape[-2:]
        size, attention = tower.config.patch_size, tower.transformer.layers[-1].attention

        def run() -> None:
            for tile in tiles.split(1):
                tower(tile.to(tower.dtype), image_sizes=[(height, width)])

        read = attention_received(attention, run, lambda keys: False)
        return torch.cat(read).reshape(len(tiles), height // size, width // size)
