"""LLaVA-1.5: a square grid of CLIP or SigLIP patches per image, one token each, row-major."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Bool
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import UnsupportedModelError
from .base import ImagePatches, ModelFamily, square_images

_HAS_CLASS_TOKEN = {"clip_vision_model": True, "siglip_vision_model": False}


class Llava(ModelFamily):
    """`LlavaForConditionalGeneration`: `llava-hf/llava-1.5-7b-hf`, `llava-hf/llava-1.5-13b-hf` and their kin."""

    name: ClassVar[str] = "llava"
    summary: ClassVar[str] = "LLaVA-1.5: one square grid per image"
    model_types: ClassVar[tuple[str, ...]] = ("llava",)
    edit_layers: ClassVar[range] = range(0, 12)

    def check(self, model: PreTrainedModel) -> None:
        """Raise UnsupportedModelError for a vision tower whose output is not one fixed square of patches."""
        super().check(model)
        _tokens_per_image(model)

    def images(
        self, model: PreTrainedModel, visual: Bool[Tensor, "batch seq"], decoder_inputs: Mapping[str, Any]
    ) -> list[ImagePatches]:
        """Cut each row's image tokens into runs of one image. See `ModelFamily.images`."""
        return square_images(visual, *_tokens_per_image(model))


def _tokens_per_image(model: PreTrainedModel) -> tuple[int, int]:
    """Side of the square grid, and the number of class tokens (0 or 1) that the model keeps before it."""
    vision = model.config.vision_config
    has_class_token = _HAS_CLASS_TOKEN.get(vision.model_type)
    keeps_first = model.config.vision_feature_select_strategy == "full"
    if has_class_token is None or not isinstance(vision.image_size, int) or not (has_class_token or keeps_first):
        raise UnsupportedModelError(
            f"vision tower whose tokens are not one square of patches: got {vision.model_type} of image size "
            f"{vision.image_size} with feature selection {model.config.vision_feature_select_strategy!r}; expected a "
            "square clip_vision_model, or a square siglip_vision_model with 'full'. Use a LLaVA-1.5 checkpoint."
        )
    return vision.image_size // vision.patch_size, int(has_class_token and keeps_first)
