"""InternVL: every tile of an image is a square grid, the thumbnail one more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import PromptLayoutError
from ..towers import tower_salience
from .base import ImagePatches, ModelFamily, PatchGrid, beside_runs, visual_runs


class InternVL(ModelFamily):
    """`InternVLForConditionalGeneration`: converted checkpoints, such as `OpenGVLab/InternVL3-8B-hf`."""

    name: ClassVar[str] = "internvl"
    summary: ClassVar[str] = "InternVL (-hf): one grid per tile, the thumbnail its own"
    model_types: ClassVar[tuple[str, ...]] = ("internvl",)
    # The paper gives no range for InternVL2; this is that of its other families of the same depth.
    edit_layers: ClassVar[range] = range(0, 16)
    whole_picture: ClassVar[int | None] = -1

    def frame_tokens(
        self, model: PreTrainedModel, visual: Bool[Tensor, "batch seq"], ids: Int[Tensor, "batch seq"]
    ) -> Bool[Tensor, "batch seq"]:
        """`<img>` and `</img>`, which every release has added to the vocabulary right before the image token.

        The config does not name them; see `ModelFamily.frame_tokens`.
        """
        config: Any = model.config
        return beside_runs(visual, ids, config.image_token_id - 2, config.image_token_id - 1)

    def images(
        self, model: PreTrainedModel, visual: Bool[Tensor, "batch seq"], decoder_inputs: Mapping[str, Any]
    ) -> list[ImagePatches]:
        """Every run of image tokens is one image, of one or more tiles; how they were laid out is not known here."""
        config: Any = model.config
        grid = PatchGrid(*(round(side * config.downsample_ratio) for side in _vision_grid(config.vision_config)))
        per_tile = grid.height * grid.width
        found = []
        for row, row_visual in enumerate(visual):
            for index, run in enumerate(visual_runs(row_visual)):
                if len(run) % per_tile:
                    raise PromptLayoutError(
                        f"image tokens of row {row} do not fit the tiles: got a run of {len(run)}; expected a multiple "
                        f"of {per_tile} ({grid.height} × {grid.width} per tile). Build the prompt with the model's own "
                        "processor."
                    )
                found.append(ImagePatches(row, index, run, (grid,) * (len(run) // per_tile)))
        return found

    def salience(
        self, model: PreTrainedModel, tiles: Float[Tensor, "tiles 3 height width"]
    ) -> Float[Tensor, "tiles rows columns"]:
        """See `ModelFamily.salience`."""
        tower: Any = model.base_model.vision_tower
        return tower_salience(tower, tower.encoder.layer[-1].attention, tiles)


def _vision_grid(vision: Any) -> tuple[int, int]:
    return vision.image_size[0] // vision.patch_size[0], vision.image_size[1] // vision.patch_size[1]
