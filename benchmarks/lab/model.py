"""The lab's LLaVA: the real class, small; how it is built, and what training calls of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, GenerationConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from .tokenizer import SPECIAL_TOKENS, build_tokenizer

__all__ = ["ModelSize", "build_model", "normalized", "vision_features"]


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Sizes of the lab's LLaVA; the defaults are those of the shipped checkpoint.

    Attributes:
        image_size: Side of the input, in pixels.
        patch_size: Side of a patch, in pixels.
        vision_width: Hidden size of the vision tower.
        vision_mlp: Inner size of its feed-forward blocks.
        vision_blocks: Its depth.
        text_width: Hidden size of the decoder.
        text_mlp: Inner size of its feed-forward blocks.
        text_blocks: Its depth.
        heads: Attention heads of both.
    """

    image_size: int = 96
    patch_size: int = 8
    vision_width: int = 128
    vision_mlp: int = 512
    vision_blocks: int = 4
    text_width: int = 128
    text_mlp: int = 352
    text_blocks: int = 8
    heads: int = 4

    @property
    def patches(self) -> int:
        """Number of patches of an image."""
        return (self.image_size // self.patch_size) ** 2


def build_model(size: ModelSize, seed: int) -> LlavaForConditionalGeneration:
    """Build an untrained model; its weights are a function of ``size`` and ``seed``.

    Args:
        size: The sizes.
        seed: Seed of the weights.
    """
    tokenizer = build_tokenizer()
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = CLIPVisionConfig(
        image_size=size.image_size,
        patch_size=size.patch_size,
        hidden_size=size.vision_width,
        intermediate_size=size.vision_mlp,
        num_hidden_layers=size.vision_blocks,
        num_attention_heads=size.heads,
        projection_dim=size.vision_width,
        hidden_act="gelu",
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.text_width,
        intermediate_size=size.text_mlp,
        num_hidden_layers=size.text_blocks,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=2048,
        initializer_range=0.05,
        tie_word_embeddings=False,
        **special,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=SPECIAL_TOKENS.index("<image>"),
        image_seq_length=size.patches,
        vision_feature_layer=-1,  # not -2 as in LLaVA-1.5: in a tower this small a block that nobody reads is a waste
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
        **special,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        # A decoder that copies the word of a patch then needs no rotation to say it.
        model.lm_head.weight.copy_(model.get_input_embeddings().weight)
    model.generation_config = GenerationConfig(do_sample=False, **special)
    return model


def normalized(pixels: Tensor) -> Tensor:
    """Turn ``uint8`` images ``(batch, height, width, 3)`` into what the processor gives: ``(batch, 3, ...)`` in ±1."""
    return pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1.0)


def vision_features(tower: nn.Module, pixel_values: Tensor) -> Tensor:
    """Return what LLaVA gives its projector: the last block's patches without the class token.

    Args:
        tower: The CLIP vision model.
        pixel_values: Normalised images ``(batch, 3, height, width)``.

    Returns:
        ``(batch, patches, vision_width)``.
    """
    return tower(pixel_values, output_hidden_states=True).hidden_states[-1][:, 1:]
