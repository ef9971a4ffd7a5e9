"""LLaVA-NeXT and LLaVA-OneVision: a square overview, then the picture in full, with a newline token after each row."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import PromptLayoutError
from .base import ImagePatches, ModelFamily, PatchGrid, pixel_misfit, visual_runs


class LlavaNext(ModelFamily):
    """`LlavaNextForConditionalGeneration`: `llava-hf/llava-v1.6-mistral-7b-hf` and its kin."""

    name: ClassVar[str] = "llava_next"
    summary: ClassVar[str] = "LLaVA-NeXT: overview and full picture; newline tokens are left alone"
    model_types: ClassVar[tuple[str, ...]] = ("llava_next",)
    edit_layers: ClassVar[range] = range(0, 12)  # LLaVA-1.5's; the paper has no LLaVA-NeXT
    whole_picture: ClassVar[int | None] = 0

    def images(
        self, model: PreTrainedModel, visual: Bool[Tensor, "batch seq"], decoder_inputs: Mapping[str, Any]
    ) -> list[ImagePatches]:
        """Find the newline tokens by their embedding; between them lie the rows. See `ModelFamily.images`."""
        embeds, base_model = decoder_inputs["inputs_embeds"].detach(), model.base_model
        newline: Any = base_model.image_newline
        is_newline = _is_newline(embeds, newline).cpu()
        vision: Any = model.config.vision_config
        side = vision.image_size // vision.patch_size
        found = []
        for row, row_visual in enumerate(visual):
            index = 0
            for run in visual_runs(row_visual):
                ends = is_newline[row, run].nonzero().flatten().tolist()
                for image in self._cut(run, ends, side):
                    found.append(ImagePatches(row, index, *image))
                    index += 1
        return found

    def map_pixels(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, Any],
        change: Callable[[Float[Tensor, "tiles 3 height width"]], Float[Tensor, "tiles 3 height width"]],
        name: str = "pixel_values",
    ) -> Tensor:
        """Leave the all-zero tiles out that end an image of fewer tiles than another. See `ModelFamily.map_pixels`."""
        pixels = inputs[name]
        if pixels.ndim == 4:  # tiles of all images in one row, without padding
            return super().map_pixels(model, inputs, change, name)
        if pixels.ndim != 5:
            raise pixel_misfit(name, pixels, "(images, tiles, 3, height, width)")
        changed, seen = pixels.clone(), (pixels != 0).flatten(2).any(dim=-1).tolist()
        for image, drawn in zip(changed, seen, strict=True):
            tiles = max([1, *(index + 1 for index, tile in enumerate(drawn) if tile)])
            image[:tiles] = change(image[:tiles])
        return changed

    def pixel_images(self, image: ImagePatches, modality: str) -> int:
        """One: tiles lie beside each other. See `ModelFamily.pixel_images`."""
        return 1

    def map_features(
        self,
        model: PreTrainedModel,
        features: Tensor | Sequence[Tensor],
        change: Callable[[Float[Tensor, "tokens dim"]], Float[Tensor, "tokens dim"]],
    ) -> Tensor | Sequence[Tensor]:
        """Leave newline tokens alone, by which `images` finds the rows. See `ModelFamily.map_features`."""
        base_model: Any = model.base_model

        def change_patches(part: Tensor) -> Tensor:
            patches = ~_is_newline(part, base_model.image_newline)
            changed = part.clone()
            changed[patches] = change(part[patches]).to(part)
            return changed

        return super().map_features(model, features, change_patches)

    def _cut(
        self, run: Int[Tensor, "tokens"], newlines: list[int], side: int
    ) -> list[tuple[Int[Tensor, "patches"], tuple[PatchGrid, ...]]]:
        """Positions and grids of each image in a run of image tokens, given where in the run the newlines are."""
        images, start = [], 0
        while newlines:
            overview = side * side
            width = newlines[0] - start - overview
            ends = [newlines.pop(0)]
            # A picture too narrow for a column of patches has rows that are newlines alone.
            while width >= 0 and newlines and newlines[0] - ends[-1] == width + 1:
                ends.append(newlines.pop(0))
            grids = self._frames(ends[0] - start, side) if len(ends) == 1 and width else ()
            if not grids:
                if width < 0:
                    raise _misfit(f"{ends[0] - start} image tokens before the first newline token", side)
                # Without tiles there is the overview alone, and one newline after it.
                grids = (PatchGrid(side, side), *([PatchGrid(len(ends), width)] if width else ()))
            kept = [token for token in range(start, ends[-1] + 1) if token not in set(ends)]
            images.append((run[kept], grids))
            start = ends[-1] + 1
        if len(run) - start == side * side:  # one too low for a row of patches has no newline at all
            images.append((run[start:], (PatchGrid(side, side),)))
        elif start != len(run):
            raise _misfit(f"{len(run) - start} image tokens after the last newline token", side)
        return images

    def _frames(self, tokens: int, side: int) -> tuple[PatchGrid, ...]:
        """Grids of a video of so many tokens, which LLaVA-NeXT does not have."""
        return ()


class LlavaOnevision(LlavaNext):
    """`LlavaOnevisionForConditionalGeneration`: `llava-hf/llava-onevision-qwen2-7b-ov-hf` and its kin."""

    name: ClassVar[str] = "llava_onevision"
    summary: ClassVar[str] = "LLaVA-OneVision: as LLaVA-NeXT, one grid per frame of a video"
    model_types: ClassVar[tuple[str, ...]] = ("llava_onevision",)

    def visual_token_ids(self, config: PreTrainedConfig) -> dict[str, int]:
        """Images and videos."""
        return {"image": config.image_token_id, "video": config.video_token_id}

    def _frames(self, tokens: int, side: int) -> tuple[PatchGrid, ...]:
        """Frames of a pooled grid each. A picture of one row of patches could be taken for a video; it has no sources.

        That takes a picture more than twenty times as wide as high.
        """
        pooled = math.ceil(side / 2)
        return (PatchGrid(pooled, pooled),) * (tokens // pooled**2) if tokens % pooled**2 == 0 else ()


def _is_newline(vectors: Float[Tensor, "*tokens dim"], newline: Float[Tensor, "dim"]) -> Bool[Tensor, "*tokens"]:
    # Under autocast, or behind a tower of lower precision, it has been rounded on its way into the prompt.
    rounded = [newline.detach().to(dtype).to(vectors) for dtype in (vectors.dtype, torch.bfloat16, torch.float16)]
    return torch.stack([(vectors == vector).all(dim=-1) for vector in rounded]).any(dim=0)


def _misfit(got: str, side: int) -> PromptLayoutError:
    return PromptLayoutError(
        f"image tokens do not fit the grids: got {got}; expected {side} × {side} patches of the overview, then rows "
        "that each end with a newline token. Build the prompt with the model's own processor."
    )
