"""Llama 4: every tile is a square grid and a run of its own, the overview last; blocks see chunks of a prompt."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..towers import attention_received
from .aya_vision import AyaVision
from .base import runs_by_image


class Llama4(AyaVision):
    """`Llama4ForConditionalGeneration`: `meta-llama/Llama-4-Scout-17B-16E-Instruct` and its kin.

    Blocks that see a chunk are read and edited as the others are: what they do not see counts as 0.
    """

    name: ClassVar[str] = "llama4"
    summary: ClassVar[str] = "Llama 4: one grid per tile, the overview its own"
    model_types: ClassVar[tuple[str, ...]] = ("llama4",)
    # LLaVA-1.5's share of 32 blocks, of the 48; the paper has no Llama 4.
    edit_layers: ClassVar[range] = range(0, 18)
    attention_layers: ClassVar[range] = range(12, 26)
    features: ClassVar[str] = "last_hidden_state"  # it projects them by itself

    def decoder(self, model: PreTrainedModel) -> nn.Module:
        """What its `get_decoder` returns is a language model around it. See `ModelFamily.decoder`."""
        return cast(Any, model).language_model.model

    def tile_side(self, model: PreTrainedModel) -> int:
        """See `AyaVision.tile_side`."""
        vision: Any = model.config.vision_config
        return int(vision.image_size // vision.patch_size * vision.pixel_shuffle_ratio)

    def attention_update(self, layer: nn.Module) -> nn.Module:
        """As in Llama's blocks, whose MLP alone has another name. See `ModelFamily.attention_update`."""
        return cast(Any, layer).self_attn

    def frame_tokens(
        self, model: PreTrainedModel, visual: Bool[Tensor, "batch seq"], ids: Int[Tensor, "batch seq"]
    ) -> Bool[Tensor, "batch seq"]:
        """All between the tiles of an image, `<|image_start|>`, `<|image_end|>`, and `<|image|>` before the overview.

        See `ModelFamily.frame_tokens`.
        """
        framing = torch.zeros_like(visual)
        for row, tokens in enumerate(ids):
            for tiles in runs_by_image(visual[row], tokens[:, None]):
                first, before = int(tiles[0][0]), 1 if len(tiles) > 1 else 2
                framing[row, max(0, first - before) : int(tiles[-1][-1]) + 2] = True
        return framing & ~visual

    def salience(
        self, model: PreTrainedModel, tiles: Float[Tensor, "tiles 3 height width"]
    ) -> Float[Tensor, "tiles rows columns"]:
        """The mean over all tokens, of which the last is a class token. See `ModelFamily.salience`."""
        tower: Any = model.base_model.vision_model
        size = tower.config.patch_size
        rows, columns = (side // size for side in tiles.shape[-2:])
        attention = tower.model.layers[-1].self_attn
        (received,) = attention_received(attention, lambda: tower(tiles.to(tower.dtype)), lambda keys: False)
        return received[:, :-1].reshape(-1, rows, columns)
