"""Qwen2-VL and Qwen2.5-VL: a grid of any size per image, one per time step of a video, told by M-RoPE positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from ..compat import window_order
from ..errors import PromptLayoutError
from ..towers import attention_received
from .base import ImagePatches, ModelFamily, PatchGrid, beside_runs, pixel_misfit, visual_runs


class Qwen2VL(ModelFamily):
    """`Qwen2VLForConditionalGeneration` and `Qwen2_5_VLForConditionalGeneration`: `Qwen/Qwen2-VL-7B-Instruct`, ..."""

    name: ClassVar[str] = "qwen2_vl"
    summary: ClassVar[str] = "Qwen2-VL, Qwen2.5-VL: a grid of the image's own shape, one per time step of a video"
    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl", "qwen2_5_vl")
    edit_layers: ClassVar[range] = range(0, 16)

    def visual_token_ids(self, config: PreTrainedConfig) -> dict[str, int]:
        """Images and videos."""
        return {"image": config.image_token_id, "video": config.video_token_id}

    def frame_tokens(
        self, model: PreTrainedModel, visual: Bool[Tensor, "batch seq"], ids: Int[Tensor, "batch seq"]
    ) -> Bool[Tensor, "batch seq"]:
        """`<|vision_start|>` and `<|vision_end|>`. See `ModelFamily.frame_tokens`."""
        config: Any = model.config
        return beside_runs(visual, ids, config.vision_start_token_id, config.vision_end_token_id)

    def images(
        self, model: PreTrainedModel, visual: Bool[Tensor, "batch seq"], decoder_inputs: Mapping[str, Any]
    ) -> list[ImagePatches]:
        """Read the grids off the (time, row, column) positions that the decoder rotates by."""
        positions = decoder_inputs.get("position_ids")
        places = None if positions is None or positions.ndim != 3 else positions[-3:].cpu().expand(3, len(visual), -1)
        found = []
        for row, row_visual in enumerate(visual):
            for index, run in enumerate(visual_runs(row_visual)):
                # A single token is a grid of one patch, whatever its position.
                grids = (PatchGrid(1, 1),) if len(run) == 1 else _grids(None if places is None else places[:, row, run])
                found.append(ImagePatches(row, index, run, grids))
        return found

    def map_pixels(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, Any],
        change: Callable[[Float[Tensor, "tiles 3 height width"]], Float[Tensor, "tiles 3 height width"]],
        name: str = "pixel_values",
    ) -> Tensor:
        """Lay the patches out as pictures. See `ModelFamily.map_pixels`.

        The processor repeats a picture, to fill a time step. `change` sees it once, and the copies stay equal; frames
        that differ are a video.
        """
        pixels, config = inputs[name], model.config.vision_config
        grids = inputs.get("image_grid_thw" if name == "pixel_values" else "video_grid_thw")
        counts = [] if grids is None else grids.prod(dim=-1).tolist()
        time, patch, merge = config.temporal_patch_size, config.patch_size, config.spatial_merge_size
        if grids is None or tuple(pixels.shape) != (sum(counts), 3 * time * patch**2):
            raise pixel_misfit(
                name,
                pixels,
                f"(patches, {3 * time * patch**2}) with a row of the grids' (time, height, width) per image",
            )
        changed = []
        for flat, (steps, height, width) in zip(pixels.split(counts), grids.tolist(), strict=True):
            blocks = flat.reshape(steps, height // merge, width // merge, merge, merge, 3, time, patch, patch)
            # (step, frame, channel, row of blocks, row in the block, row in the patch, and the same of columns)
            frames = blocks.permute(0, 6, 5, 1, 3, 7, 2, 4, 8)
            pictures = frames.reshape(steps, time, 3, height * patch, width * patch)
            if (pictures == pictures[:, :1]).all():
                new = change(pictures[:, 0])[:, None].expand_as(pictures)
            else:
                new = change(pictures.flatten(0, 1)).reshape(pictures.shape)
            changed.append(_flattened(new, config).to(flat))
        return torch.cat(changed) if changed else pixels.clone()

    def salience(
        self, model: PreTrainedModel, tiles: Float[Tensor, "tiles 3 height width"]
    ) -> Float[Tensor, "tiles rows columns"]:
        """The last block whose patches see the whole picture; see `ModelFamily.salience`.

        Each frame is seen as a picture of its own, which stands still.
        """
        tower: Any = model.base_model.visual
        config, merge = tower.config, tower.spatial_merge_size
        last = getattr(config, "fullatt_block_indexes", None) or [len(tower.blocks) - 1]
        rows, columns = (side // config.patch_size for side in tiles.shape[-2:])
        pixels = _flattened(tiles[:, None].expand(-1, config.temporal_patch_size, -1, -1, -1), config).to(tower.dtype)
        grid = torch.tensor([[1, rows, columns]] * len(tiles), device=tiles.device)
        read = attention_received(tower.blocks[last[-1]].attn, lambda: tower(pixels, grid_thw=grid), lambda keys: False)
        blocks = torch.cat([frame[0] for frame in read]).reshape(-1, merge**2)
        if hasattr(config, "window_size"):  # the tower runs window by window
            blocks = blocks[window_order(config, grid).argsort().to(blocks.device)]
        laid_out = blocks.reshape(len(tiles), rows // merge, columns // merge, merge, merge)
        return laid_out.transpose(2, 3).reshape(len(tiles), rows, columns)


def _flattened(pictures: Float[Tensor, "steps time 3 height width"], config: Any) -> Float[Tensor, "patches values"]:
    """Pictures in the processor's layout: patch after patch, those that merge side by side."""
    steps, time, _, height, width = pictures.shape
    merge, patch = config.spatial_merge_size, config.patch_size
    frames = pictures.reshape(
        steps, time, 3, height // (merge * patch), merge, patch, width // (merge * patch), merge, patch
    )
    return frames.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, 3 * time * patch**2)


def _grids(places: Int[Tensor, "3 patches"] | None) -> tuple[PatchGrid, ...]:
    """Cut a run of image tokens where the raster starts again, which needs no time step: slow videos may repeat one."""
    if places is None:
        raise _without_grid("no three-dimensional positions")
    if (places.diff(dim=1) == 1).all():
        raise _without_grid("positions that count on as those of text do")
    time, rows, columns = places
    starts = torch.ones_like(time, dtype=torch.bool)
    starts[1:] = (rows[1:] < rows[:-1]) | (time[1:] != time[:-1])
    # A raster of one row starts again where its column does, without a step of the row.
    starts[1:] |= (rows[1:] == rows[:-1]) & (columns[1:] <= columns[:-1])
    grids = []
    for grid in places.tensor_split(starts.nonzero().flatten()[1:], dim=1):
        (height, width) = (int(extent.max() - extent.min()) + 1 for extent in grid[1:])
        raster = torch.cartesian_prod(*(torch.arange(size, device="cpu") for size in (height, width))).T
        if grid.shape[1] != height * width or not torch.equal(grid[1:] - grid[1:, :1], raster):
            raise _without_grid(f"{grid.shape[1]} tokens over {height} rows and {width} columns")
        grids.append(PatchGrid(height, width))
    return tuple(grids)


def _without_grid(got: str) -> PromptLayoutError:
    return PromptLayoutError(
        f"positions of the image tokens are no patch grid: got {got}; expected M-RoPE's time, row and column of each "
        "token. Pass all that the processor returns, `mm_token_type_ids` included; give `position_ids` in a later turn "
        "alone, and of three axes."
    )
