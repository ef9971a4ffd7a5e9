"""The lab's LLaVA: the real class with a CLIP tower over one square grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from .base import LabFamily, Region, Shape, normalized, resized
from .tokenizer import SpecialTokens

__all__ = ["Llava"]


class Llava(LabFamily):
    """`LlavaForConditionalGeneration` with CLIP and Llama."""

    name: ClassVar[str] = "llava"
    title: ClassVar[str] = "A LLaVA"
    parts: ClassVar[str] = "a CLIP vision tower and a Llama decoder"
    sees: ClassVar[str] = "An image is one square grid of patches."
    special: ClassVar[SpecialTokens] = SpecialTokens(
        # Identities 0–4, in this order.
        tokens=("<pad>", "<s>", "</s>", "<unk>", "<image>"),
        pad="<pad>",
        begin="<s>",
        end="</s>",
        image="<image>",
        named={"image_token": "<image>"},
    )
    # LLaVA-1.5's turns, on one line per message as its checkpoints have them.
    template: ClassVar[str] = (
        "{% for message in messages %}"
        "{{ 'USER: ' if message['role'] == 'user' else 'ASSISTANT: ' if message['role'] == 'assistant' else '' }}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\\n' }}{% endif %}{% endfor %}"
        "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
        "{% endif %}"
        "{{ '</s>' if message['role'] == 'assistant' else ' ' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )

    def untrained(self) -> LlavaForConditionalGeneration:
        """Build the model with weights from torch's generator as it is."""
        size = self.size
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
            vocab_size=len(self.tokenizer),
            hidden_size=size.text_width,
            intermediate_size=size.text_mlp,
            num_hidden_layers=size.text_blocks,
            num_attention_heads=size.heads,
            num_key_value_heads=size.heads,
            max_position_embeddings=2048,
            initializer_range=0.05,
            tie_word_embeddings=False,
            **self.special_ids,
        )
        config = LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=self.image_token_id,
            image_seq_length=self.tokens((size.image_size, size.image_size)),
            vision_feature_layer=-1,  # not -2 as in LLaVA-1.5: in a tower so small a block that nobody reads is a waste
            vision_feature_select_strategy="default",
            tie_word_embeddings=False,
            **self.special_ids,
        )
        return LlavaForConditionalGeneration(config)

    def build_processor(self) -> LlavaProcessor:
        """Build the processor: any image is resized to the model's square, one placeholder per patch."""
        square = {"height": self.size.image_size, "width": self.size.image_size}
        image_processor = CLIPImageProcessorPil(
            size=square,
            crop_size=square,
            do_center_crop=False,
            image_mean=[0.5, 0.5, 0.5],
            image_std=[0.5, 0.5, 0.5],
        )
        return LlavaProcessor(
            image_processor=image_processor,
            tokenizer=self.tokenizer,
            patch_size=self.size.patch_size,
            vision_feature_select_strategy="default",
            chat_template=self.template,
            # The class token, which the strategy "default" takes off again.
            num_additional_image_tokens=1,
        )

    def tower(self, model: Any) -> nn.Module:
        """CLIP; what only its pooled output uses never gets a gradient and keeps its initial value."""
        return model.model.vision_tower

    def projector(self, model: Any) -> nn.Module:
        """The two linear layers."""
        return model.model.multi_modal_projector

    def regions(self, shape: Shape) -> list[Region]:
        """One grid, whatever the size of the image."""
        side = self.size.image_size // self.size.patch_size
        return [Region((0, 0, 1, 1), side, side)]

    def view(self, picture: Image.Image) -> Tensor:
        """The model's square: ``(height, width, 3)``."""
        return torch.from_numpy(np.array(resized(picture, (self.size.image_size, self.size.image_size))))

    def encode(self, model: Any, views: Sequence[Tensor]) -> Tensor:
        """Return the last block's patches without the class token."""
        pixels = normalized(torch.stack(list(views)).to(model.device))
        return self.tower(model)(pixels, output_hidden_states=True).hidden_states[-1][:, 1:].flatten(0, 1)[:, None]
