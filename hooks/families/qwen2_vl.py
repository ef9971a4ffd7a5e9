"""Qwen2-VL and Qwen2.5-VL: a grid of any size per image, one per time step of a video, told by M-RoPE positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import PromptLayoutError
from .base import ImagePatches, ModelFamily, PatchGrid, visual_runs


class Qwen2VL(ModelFamily):
    """`Qwen2VLForConditionalGeneration` and `Qwen2_5_VLForConditionalGeneration`: `Qwen/Qwen2-VL-7B-Instruct`, ..."""

    name: ClassVar[str] = "qwen2_vl"
    summary: ClassVar[str] = "Qwen2-VL, Qwen2.5-VL: a grid of the image's own shape, one per time step of a video"
    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl", "qwen2_5_vl")
    edit_layers: ClassVar[range] = range(0, 16)

    def visual_token_ids(self, config: PreTrainedConfig) -> tuple[int, ...]:
        """Images and videos."""
        return config.image_token_id, config.video_token_id

    def images(
        self, model: PreTrainedModel, visual: Bool[Tensor, "batch seq"], decoder_inputs: Mapping[str, Any]
    ) -> list[ImagePatches]:
        """Read the grids off the (time, row, column) positions that the decoder rotates by."""
        positions = decoder_inputs.get("position_ids")
        if positions is None or positions.ndim != 3:
            raise _without_grid("no three-dimensional positions")
        places = positions[-3:].cpu().expand(3, len(visual), -1)
        found = []
        for row, row_visual in enumerate(visual):
            for index, run in enumerate(visual_runs(row_visual)):
                found.append(ImagePatches(row, index, run, _grids(places[:, row, run])))
        if found and all(image.grids == (PatchGrid(1, 1),) * len(image.positions) for image in found):
            raise _without_grid("grids of a single patch")
        return found


def _grids(places: Int[Tensor, "3 patches"]) -> tuple[PatchGrid, ...]:
    """Cut a run of image tokens where the raster starts again, which needs no time step: slow videos may repeat one."""
    time, rows, columns = places
    starts = torch.ones_like(time, dtype=torch.bool)
    starts[1:] = (rows[1:] < rows[:-1]) | (time[1:] != time[:-1])
    # A raster of one row starts again where its column does, without a step of the row.
    starts[1:] |= (rows[1:] == rows[:-1]) & (columns[1:] <= columns[:-1])
    grids = []
    for grid in places.tensor_split(starts.nonzero().flatten()[1:], dim=1):
        (height, width) = (int(extent.max() - extent.min()) + 1 for extent in grid[1:])
        raster = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")).flatten(1)
        if grid.shape[1] != height * width or not torch.equal(grid[1:] - grid[1:, :1], raster):
            raise _without_grid(f"{grid.shape[1]} tokens over {height} rows and {width} columns")
        grids.append(PatchGrid(height, width))
    return tuple(grids)


def _without_grid(got: str) -> PromptLayoutError:
    return PromptLayoutError(
        f"positions of the image tokens are no patch grid: got {got}; expected M-RoPE's time, row and column of each "
        "token. Pass all that the processor returns, `mm_token_type_ids` included."
    )
