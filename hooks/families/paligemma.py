"""PaliGemma: one square grid per image; the whole prompt sees itself both ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Bool
from torch import Tensor
from transformers import PreTrainedModel

from .base import ImagePatches, ModelFamily, square_images


class PaliGemma(ModelFamily):
    """`PaliGemmaForConditionalGeneration`: `google/paligemma2-3b-mix-224` and its kin."""

    name: ClassVar[str] = "paligemma"
    summary: ClassVar[str] = "PaliGemma, PaliGemma 2: one square grid per image, in a prompt that sees itself both ways"
    model_types: ClassVar[tuple[str, ...]] = ("paligemma",)
    # LLaVA-1.5's; the paper has no PaliGemma. The first one has 18 blocks, and takes their share.
    edit_layers: ClassVar[range] = range(0, 12)
    first_position: ClassVar[int] = 1

    def images(
        self, model: PreTrainedModel, visual: Bool[Tensor, "batch seq"], decoder_inputs: Mapping[str, Any]
    ) -> list[ImagePatches]:
        """Cut each row's image tokens into squares. See `ModelFamily.images`."""
        vision: Any = model.config.vision_config
        return square_images(visual, vision.image_size // vision.patch_size)
