"""Gemma 3: 16 × 16 pooled tokens per image, which see each other both ways; pan-and-scan crops are images too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, cast

from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from .base import ImagePatches, ModelFamily, beside_runs, square_images


class Gemma3(ModelFamily):
    """`Gemma3ForConditionalGeneration`: `google/gemma-3-4b-it` and its kin.

    Blocks with a sliding window are read and edited as the others are: what they do not see counts as 0.
    """

    name: ClassVar[str] = "gemma3"
    summary: ClassVar[str] = "Gemma 3: one square of pooled tokens per image, and per pan-and-scan crop"
    model_types: ClassVar[tuple[str, ...]] = ("gemma3",)
    # LLaVA-1.5's share of 32 blocks, of the 4B's 34; the paper has no Gemma.
    edit_layers: ClassVar[range] = range(0, 13)
    attention_layers: ClassVar[range] = range(8, 18)

    def attention_update(self, layer: nn.Module) -> nn.Module:
        """The norm behind attention. See `ModelFamily.attention_update`."""
        return cast(Any, layer).post_attention_layernorm

    def frame_tokens(
        self, model: PreTrainedModel, visual: Bool[Tensor, "batch seq"], ids: Int[Tensor, "batch seq"]
    ) -> Bool[Tensor, "batch seq"]:
        """`<start_of_image>` and `<end_of_image>`. See `ModelFamily.frame_tokens`."""
        config: Any = model.config
        return beside_runs(visual, ids, config.boi_token_index, config.eoi_token_index)

    def images(
        self, model: PreTrainedModel, visual: Bool[Tensor, "batch seq"], decoder_inputs: Mapping[str, Any]
    ) -> list[ImagePatches]:
        """Cut each row's image tokens into squares. See `ModelFamily.images`."""
        return square_images(visual, math.isqrt(model.config.mm_tokens_per_image))
