"""Chameleon: a square grid of discrete codes per image, embedded by the decoder itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from .base import ImagePatches, ModelFamily, beside_runs, square_images


class Chameleon(ModelFamily):
    """`ChameleonForConditionalGeneration`: `facebook/chameleon-7b`, `facebook/chameleon-30b`."""

    name: ClassVar[str] = "chameleon"
    summary: ClassVar[str] = "Chameleon: one square grid of codes per image; the 30B edits blocks 0–20"
    model_types: ClassVar[tuple[str, ...]] = ("chameleon",)
    edit_layers: ClassVar[range] = range(0, 16)

    def edit_layers_of(self, model: PreTrainedModel) -> range:
        """The 30B, which alone has Swin's order of norms, has a published range of its own."""
        return range(0, 21) if model.config.swin_norm else self.edit_layers

    def attention_update(self, layer: nn.Module) -> nn.Module:
        """In Swin's order the norm comes after attention."""
        block: Any = layer
        return block.input_layernorm if block.self_attn.config.swin_norm else super().attention_update(layer)

    def decoder_inputs(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Embed the codes here, since the decoder is the base model: so the image is encoded once for both passes."""
        pixels, encoded = inputs.get("pixel_values"), inputs.get("mm_encoder_outputs")
        both = inputs.get("input_ids") is not None and inputs.get("inputs_embeds") is not None
        if both or (pixels is None) == (not encoded):
            return inputs  # nothing to merge, or what the model refuses
        merged: Any = model.base_model
        inputs = dict(inputs)
        tokens = inputs.pop("input_ids", None)
        for name in ("pixel_values", "mm_encoder_outputs"):
            inputs.pop(name, None)
        encoded = encoded["image"] if encoded else merged.get_image_features(pixels, return_dict=True)
        embeds = inputs["inputs_embeds"] if tokens is None else merged.get_input_embeddings()(tokens)
        features = encoded.pooler_output
        mask = merged.get_placeholder_mask(tokens, inputs_embeds=embeds, image_features=features)
        return {**inputs, "inputs_embeds": embeds.masked_scatter(mask, features)}

    def frame_tokens(
        self, model: PreTrainedModel, visual: Bool[Tensor, "batch seq"], ids: Int[Tensor, "batch seq"]
    ) -> Bool[Tensor, "batch seq"]:
        """What begins and ends an image, as the vocabulary calls it. See `ModelFamily.frame_tokens`."""
        known: Any = model.config.vocabulary_map or {}
        return beside_runs(visual, ids, known.get("<racm3:break>"), known.get("<eoss>"))

    def images(
        self, model: PreTrainedModel, visual: Bool[Tensor, "batch seq"], decoder_inputs: Mapping[str, Any]
    ) -> list[ImagePatches]:
        """Cut each row's image tokens into squares of codes. See `ModelFamily.images`."""
        codes: Any = model.config.vq_config
        return square_images(visual, codes.resolution // 2 ** (len(codes.channel_multiplier) - 1))

    def salience(
        self, model: PreTrainedModel, tiles: Float[Tensor, "tiles 3 height width"]
    ) -> Float[Tensor, "tiles rows columns"]:
        """How far a place's features are from the tile's mean, since convolutions attend to nothing.

        See `ModelFamily.salience`.
        """
        codes: Any = model.base_model.vqmodel
        with torch.no_grad():
            features = codes.encode(tiles.to(codes.dtype), return_dict=True).last_hidden_state.float()
        return (features - features.mean(dim=(2, 3), keepdim=True)).norm(dim=1)
