"""The lab's InternVL: the real class with a Qwen2 decoder; an image is cut into tiles, and a thumbnail of it added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import (
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    QianfanOCRProcessor,
    Qwen2Config,
)

from .base import LabFamily, ModelSize, Region, Shape, normalized, resized
from .tokenizer import CHATML, SpecialTokens

__all__ = ["InternVL", "InternVLSize"]

_NATIVE = (96, 96)


@dataclass(frozen=True, kw_only=True)
class InternVLSize(ModelSize):
    """Sizes of the lab's InternVL; the defaults are those of the shipped checkpoint.

    Attributes:
        tile_size: Side of a tile, in pixels.
        most_tiles: Most tiles of an image, the thumbnail not counted.
        shown: Height and width, in whole tiles, at which training shows image i: entry i modulo their number.
    """

    patch_size: int = 4
    vision_width: int = 96
    vision_mlp: int = 384
    vision_blocks: int = 3
    tile_size: int = 48
    most_tiles: int = 4
    shown: tuple[Shape, ...] = (*(_NATIVE,) * 7, (48, 96), *(_NATIVE,) * 7, (96, 48))


class InternVL(LabFamily):
    """`InternVLForConditionalGeneration` with Qwen2."""

    name: ClassVar[str] = "internvl"
    title: ClassVar[str] = "An InternVL"
    parts: ClassVar[str] = "its own vision tower and a Qwen2 decoder"
    sees: ClassVar[str] = (
        "A square image is cut into two by two tiles, an oblong one into a row or a column of them;\n"
        "a thumbnail of the whole is added."
    )
    special: ClassVar[SpecialTokens] = SpecialTokens(
        tokens=(
            *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>"),
            *("<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
        ),
        pad="<|endoftext|>",
        begin=None,
        end="<|im_end|>",
        image="<IMG_CONTEXT>",
        named={
            "turn_token": "<|im_start|>",
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )
    template: ClassVar[str] = CHATML.replace("IMAGE", "<IMG_CONTEXT>\\n")
    around_image: ClassVar[tuple[str, str]] = ("<img>", "</img>")
    merge: ClassVar[int] = 2
    other_shapes: ClassVar[tuple[Shape, ...]] = ((48, 96),)
    size: InternVLSize

    def untrained(self) -> InternVLForConditionalGeneration:
        """Build the model with weights from torch's generator as it is."""
        size = self.size
        vision = InternVLVisionConfig(
            image_size=size.tile_size,
            patch_size=size.patch_size,
            hidden_size=size.vision_width,
            intermediate_size=size.vision_mlp,
            num_hidden_layers=size.vision_blocks,
            num_attention_heads=size.heads,
            initializer_range=0.05,
            attention_bias=True,
            layer_scale_init_value=1.0,  # damped branches help deep towers; this one is to learn in minutes
        )
        text = Qwen2Config(
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
        config = InternVLConfig(
            vision_config=vision,
            text_config=text,
            image_token_id=self.image_token_id,
            image_seq_length=self._per_tile,
            downsample_ratio=1 / self.merge,
            tie_word_embeddings=False,
        )
        return InternVLForConditionalGeneration(config)

    def build_processor(self) -> QianfanOCRProcessor:
        """Build the processor: an image is cut into the tiles that fit its shape best, and its thumbnail added.

        transformers' own `InternVLProcessor` cannot be built without a video processor, and that not without
        torchvision; this one does the same with an image processor alone.
        """
        image_processor = GotOcr2ImageProcessorPil(
            size={"height": self.size.tile_size, "width": self.size.tile_size},
            crop_to_patches=True,
            min_patches=1,
            max_patches=self.size.most_tiles,
            image_mean=[0.5, 0.5, 0.5],
            image_std=[0.5, 0.5, 0.5],
        )
        return QianfanOCRProcessor(
            image_processor=image_processor,
            tokenizer=self.tokenizer,
            image_seq_length=self._per_tile,
            chat_template=self.template,
            image_placeholder_token=self.special.image,
        )

    def tower(self, model: Any) -> nn.Module:
        """The vision transformer, which sees every tile by itself."""
        return model.model.vision_tower

    def projector(self, model: Any) -> nn.Module:
        """The norm and the two linear layers after the pixel shuffle."""
        return model.model.multi_modal_projector

    def shape_of(self, index: int) -> Shape:
        """Most images at their own size, two by two tiles; every eighth at one by two or two by one."""
        return self.size.shown[index % len(self.size.shown)]

    def regions(self, shape: Shape) -> list[Region]:
        """Every tile is one grid, row by row, and the thumbnail one more."""
        side = self.size.tile_size // self.size.patch_size
        rows, columns = (length // self.size.tile_size for length in shape)
        boxes = [
            (column / columns, row / rows, (column + 1) / columns, (row + 1) / rows)
            for row in range(rows)
            for column in range(columns)
        ]
        thumbnail = [(0.0, 0.0, 1.0, 1.0)] if len(boxes) > 1 else []
        return [Region(box, side, side) for box in boxes + thumbnail]

    def view(self, picture: Image.Image) -> Tensor:
        """The tiles, and the thumbnail where there are several: ``(tiles, tile_size, tile_size, 3)``."""
        tile = self.size.tile_size
        pixels = torch.from_numpy(np.array(picture))
        tiles = pixels.unflatten(1, (-1, tile)).unflatten(0, (-1, tile)).transpose(1, 2).flatten(0, 1)
        if len(tiles) == 1:
            return tiles
        thumbnail = torch.from_numpy(np.array(resized(picture, (tile, tile))))
        return torch.cat([tiles, thumbnail[None]])

    def encode(self, model: Any, views: Sequence[Tensor]) -> Tensor:
        """Return the last block's patches without the class token, after the pixel shuffle."""
        pixels = normalized(torch.cat(list(views)).to(model.device))
        patches = self.tower(model)(pixels).last_hidden_state[:, 1:]
        side = self.size.tile_size // self.size.patch_size
        shuffled = model.model.pixel_shuffle(patches.unflatten(1, (side, side)), scale_factor=1 / self.merge)
        return shuffled.flatten(0, 2).unflatten(1, (self.merge**2, -1))

    @property
    def _per_tile(self) -> int:
        return (self.size.tile_size // self.size.patch_size // self.merge) ** 2
