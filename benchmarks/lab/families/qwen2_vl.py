"""The lab's Qwen2-VL: the real class, images at a size of their own, and positions of time, row and column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import (
    PaddleOCRVLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from .base import LabFamily, ModelSize, Region, Shape, normalized
from .tokenizer import CHATML, SpecialTokens

__all__ = ["Qwen2VL", "Qwen2VLSize"]

_FRAMES = 2  # a picture is shown to the tower as so many equal frames of a video
_NATIVE = (96, 96)


@dataclass(frozen=True, kw_only=True)
class Qwen2VLSize(ModelSize):
    """Sizes of the lab's Qwen2-VL; the defaults are those of the shipped checkpoint.

    Attributes:
        shown: Height and width at which training shows image i: entry i modulo their number.
    """

    patch_size: int = 6
    vision_blocks: int = 3
    shown: tuple[Shape, ...] = (
        *(_NATIVE, (72, 96), _NATIVE, (96, 72), _NATIVE, (84, 84)),
        *(_NATIVE, (96, 108), _NATIVE, (108, 96), _NATIVE, (120, 120)),
    )


class Qwen2VL(LabFamily):
    """`Qwen2VLForConditionalGeneration`."""

    name: ClassVar[str] = "qwen2_vl"
    title: ClassVar[str] = "A Qwen2-VL"
    parts: ClassVar[str] = "its own vision tower and decoder"
    sees: ClassVar[str] = (
        "An image is one grid of its own shape: half of those in training were shown smaller, larger or longer.\n"
        "Positions are of time, row and column (M-RoPE)."
    )
    special: ClassVar[SpecialTokens] = SpecialTokens(
        tokens=(
            *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>"),
            *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
        ),
        pad="<|endoftext|>",
        begin=None,
        end="<|im_end|>",
        image="<|image_pad|>",
        named={
            "turn_token": "<|im_start|>",
            "vision_start_token": "<|vision_start|>",
            "vision_end_token": "<|vision_end|>",
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
        },
    )
    template: ClassVar[str] = CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    merge: ClassVar[int] = 2
    other_shapes: ClassVar[tuple[Shape, ...]] = ((72, 96), (120, 120))
    size: Qwen2VLSize

    def untrained(self) -> Qwen2VLForConditionalGeneration:
        """Build the model with weights from torch's generator as it is."""
        size, half = self.size, self.size.text_width // self.size.heads // 2
        rows = (half - half // 4) // 2  # a quarter of the frequencies for time, the others for rows and columns
        config = Qwen2VLConfig(
            vision_config={
                "depth": size.vision_blocks,
                "embed_dim": size.vision_width,
                "hidden_size": size.text_width,
                "hidden_act": "quick_gelu",
                "mlp_ratio": size.vision_mlp // size.vision_width,
                "num_heads": size.heads,
                "patch_size": size.patch_size,
                "spatial_merge_size": self.merge,
                "temporal_patch_size": _FRAMES,
                "initializer_range": 0.05,
            },
            text_config={
                "vocab_size": len(self.tokenizer),
                "hidden_size": size.text_width,
                "intermediate_size": size.text_mlp,
                "num_hidden_layers": size.text_blocks,
                "num_attention_heads": size.heads,
                "num_key_value_heads": size.heads,
                "max_position_embeddings": 2048,
                "initializer_range": 0.05,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 10_000.0,
                    "mrope_section": [half - 2 * rows, rows, rows],
                },
                **self.special_ids,
            },
            image_token_id=self.image_token_id,
            video_token_id=self.token_id("<|video_pad|>"),
            vision_start_token_id=self.token_id("<|vision_start|>"),
            vision_end_token_id=self.token_id("<|vision_end|>"),
            tie_word_embeddings=False,
        )
        return Qwen2VLForConditionalGeneration(config)

    def build_processor(self) -> PaddleOCRVLProcessor:
        """Build the processor: an image keeps its shape, within a range of areas that training has shown.

        transformers' own `Qwen2VLProcessor` cannot be built without a video processor, and that not without
        torchvision; this one does the same with an image processor alone.
        """
        areas = [height * width for height, width in self.size.shown]
        image_processor = Qwen2VLImageProcessorPil(
            patch_size=self.size.patch_size,
            merge_size=self.merge,
            temporal_patch_size=_FRAMES,
            size={"shortest_edge": min(areas), "longest_edge": max(areas)},  # areas, whatever their names say
            image_mean=[0.5, 0.5, 0.5],
            image_std=[0.5, 0.5, 0.5],
        )
        return PaddleOCRVLProcessor(
            image_processor=image_processor, tokenizer=self.tokenizer, chat_template=self.template
        )

    def tower(self, model: Any) -> nn.Module:
        """The vision transformer; its merger gets no gradient in stage 1."""
        return model.model.visual

    def projector(self, model: Any) -> nn.Module:
        """The merger."""
        return model.model.visual.merger

    def shape_of(self, index: int) -> Shape:
        """Half of the images at their own size, the others at a few smaller, larger and longer ones."""
        return self.size.shown[index % len(self.size.shown)]

    def regions(self, shape: Shape) -> list[Region]:
        """One grid of the image's own shape."""
        return [Region((0, 0, 1, 1), shape[0] // self.size.patch_size, shape[1] // self.size.patch_size)]

    def positions(self, shape: Shape) -> Tensor:
        """Time, row and column: ``(3, tokens)``."""
        sides = (torch.arange(side // (self.size.patch_size * self.merge)) for side in shape)
        rows, columns = torch.meshgrid(*sides, indexing="ij")
        return torch.stack([torch.zeros_like(rows), rows, columns]).flatten(1)

    def view(self, picture: Image.Image) -> Tensor:
        """The image as it is: ``(height, width, 3)``; both are multiples of a token's side."""
        return torch.from_numpy(np.array(picture))

    def encode(self, model: Any, views: Sequence[Tensor]) -> Tensor:
        """Return the last block's patches, before the merger."""
        patch = self.size.patch_size
        grids = [(1, view.shape[0] // patch, view.shape[1] // patch) for view in views]
        patches = [self._patches(view.to(model.device)) for view in views]
        grid = torch.tensor(grids, device=model.device)
        hidden = self.tower(model)(torch.cat(patches), grid_thw=grid).last_hidden_state
        return hidden.unflatten(0, (-1, self.merge**2))

    def project(self, model: Any, features: Tensor) -> Tensor:
        """The merger normalises patch by patch before it joins them."""
        return self.projector(model)(features.flatten(0, 1))

    def _patches(self, view: Tensor) -> Tensor:
        """Cut an image into flat patches, grouped by image token, as the image processor does."""
        patch, merge = self.size.patch_size, self.merge
        height, width, channels = view.shape
        pixels = normalized(view[None])[0]
        grouped = pixels.reshape(
            channels, height // (patch * merge), merge, patch, width // (patch * merge), merge, patch
        ).permute(1, 4, 2, 5, 0, 3, 6)
        return grouped[:, :, :, :, :, None].expand(-1, -1, -1, -1, -1, _FRAMES, -1, -1).flatten(4).flatten(0, 3)
