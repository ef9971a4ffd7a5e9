"""Models that cost what a real one costs: the real classes with random weights, and prompts made by hand.

Latency and memory need no checkpoint, only its shape. A *full* model has the widths of the checkpoint that it stands
for, in bfloat16, for a GPU. A *small* one has its blocks and its image tokens, but an eighth of its width, in float32,
for a CPU; its vision tower is smaller too, so that it keeps roughly its share of the prefill's arithmetic. A *tiny* one
has nothing of it but the classes, for tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    InternVLConfig,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2VLConfig,
)

from scr import get_family, list_families

ATTENTION = "sdpa"  # the kernel of all methods; the naive one leaves it for its first pass
TEXT_BEFORE, TEXT_AFTER = 5, 40  # tokens of text around the image, about those of a yes/no question
_IMAGE, _VIDEO, _VISION_START, _VISION_END, _FIRST_WORD = 3, 4, 5, 6, 16  # token ids
_PATCH = 14  # pixels


class Text(NamedTuple):
    """Sizes of a text decoder."""

    hidden: int
    intermediate: int
    blocks: int
    heads: int
    key_heads: int
    vocabulary: int


class Vision(NamedTuple):
    """Sizes of a vision tower."""

    hidden: int
    intermediate: int
    blocks: int
    heads: int


class Size(NamedTuple):
    """One scale of a shape.

    Attributes:
        text: the decoder.
        vision: the tower.
        grids: (height, width), in image tokens, of every raster of the one image in a prompt.
    """

    text: Text
    vision: Vision
    grids: tuple[tuple[int, int], ...]

    @property
    def image_tokens(self) -> int:
        """How many tokens of a prompt are image patches."""
        return sum(height * width for height, width in self.grids)


@dataclass(frozen=True)
class Shape:
    """One row of the table.

    Attributes:
        name: what `--shape` calls it.
        stands_for: the checkpoint whose sizes the full scale has.
        model_type: `config.model_type`, by which its family is found.
        sizes: scale → sizes.
        config: sizes → the model's configuration.
        pixels: (sizes, batch) → what the vision tower takes, one image for each row.
    """

    name: str
    stands_for: str
    model_type: str
    sizes: Mapping[str, Size]
    config: Callable[[Size], PreTrainedConfig]
    pixels: Callable[[Size, int], dict[str, Tensor]]

    def is_supported(self) -> bool:
        """Whether `scr.patch` knows a family for it."""
        return any(self.model_type in get_family(name).model_types for name in list_families())


@dataclass(frozen=True)
class Workload:
    """A model and a batch of prompts of one length: text, one image, text.

    Attributes:
        model: in inference mode, with random weights, and without an end token: it generates as much as it is asked to.
        inputs: what `generate` takes.
        size: of the model.
    """

    model: PreTrainedModel
    inputs: dict[str, Tensor]
    size: Size

    @property
    def weight_bytes(self) -> int:
        """Bytes of parameters and buffers, each counted once."""
        tensors = {id(tensor): tensor for tensor in (*self.model.parameters(), *self.model.buffers())}
        return sum(tensor.nbytes for tensor in tensors.values())


def build_workload(
    shape: Shape, scale: str, device: torch.device, batch: int = 1, dtype: torch.dtype | None = None
) -> Workload:
    """Make a model and its prompts; the same at every call, and the caller's random state is left alone.

    Args:
        shape: of the table.
        scale: one of `SCALES`.
        device: where to make it.
        batch: number of prompts.
        dtype: of the weights; None is bfloat16 at full scale, else float32.
    """
    size = shape.sizes[scale]
    dtype = dtype or (torch.bfloat16 if scale == "full" else torch.float32)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        with device:
            model = AutoModelForImageTextToText.from_config(
                shape.config(size), dtype=dtype, attn_implementation=ATTENTION
            )
        ids = torch.randint(_FIRST_WORD, size.text.vocabulary, (batch, TEXT_BEFORE + size.image_tokens + TEXT_AFTER))
        ids[:, TEXT_BEFORE:-TEXT_AFTER] = _IMAGE
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **shape.pixels(size, batch)}
    if shape.model_type.startswith("qwen"):
        inputs["mm_token_type_ids"] = (ids == _IMAGE).int()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    moved = {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in inputs.items()}
    return Workload(model.to(device).eval(), moved, size)


def _llava(size: Size) -> PreTrainedConfig:
    vision = CLIPVisionConfig(
        hidden_size=size.vision.hidden,
        intermediate_size=size.vision.intermediate,
        num_hidden_layers=size.vision.blocks,
        num_attention_heads=size.vision.heads,
        image_size=size.grids[0][0] * _PATCH,
        patch_size=_PATCH,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=_llama(size.text),
        image_token_index=_IMAGE,
        image_seq_length=size.image_tokens,
    )


def _llava_pixels(size: Size, batch: int) -> dict[str, Tensor]:
    (height, width), *_ = size.grids
    return {"pixel_values": torch.randn(batch, 3, height * _PATCH, width * _PATCH)}


def _qwen2_vl(size: Size) -> PreTrainedConfig:
    text = size.text
    head = text.hidden // text.heads
    return Qwen2VLConfig(
        text_config={
            "vocab_size": text.vocabulary,
            "hidden_size": text.hidden,
            "intermediate_size": text.intermediate,
            "num_hidden_layers": text.blocks,
            "num_attention_heads": text.heads,
            "num_key_value_heads": text.key_heads,
            # Of Qwen2-VL-7B's 128 per head: 16, 24 and 24 pairs for time, height and width.
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [head // 8, head * 3 // 16, head * 3 // 16],
            },
        },
        vision_config={
            "hidden_size": text.hidden,
            "embed_dim": size.vision.hidden,
            "mlp_ratio": size.vision.intermediate // size.vision.hidden,
            "depth": size.vision.blocks,
            "num_heads": size.vision.heads,
        },
        image_token_id=_IMAGE,
        video_token_id=_VIDEO,
        vision_start_token_id=_VISION_START,
        vision_end_token_id=_VISION_END,
        tie_word_embeddings=False,
    )


def _qwen2_vl_pixels(size: Size, batch: int) -> dict[str, Tensor]:
    (height, width), *_ = size.grids
    patches = 4 * height * width  # merged two by two
    return {
        "pixel_values": torch.randn(batch * patches, 3 * 2 * _PATCH * _PATCH),
        "image_grid_thw": torch.tensor([[1, 2 * height, 2 * width]] * batch),
    }


def _internvl(size: Size) -> PreTrainedConfig:
    (height, width), *_ = size.grids
    vision = InternVLVisionConfig(
        hidden_size=size.vision.hidden,
        intermediate_size=size.vision.intermediate,
        num_hidden_layers=size.vision.blocks,
        num_attention_heads=size.vision.heads,
        image_size=(2 * height * _PATCH, 2 * width * _PATCH),
        patch_size=(_PATCH, _PATCH),
        attention_bias=True,
    )
    return InternVLConfig(
        vision_config=vision,
        text_config=_llama(size.text),
        image_token_id=_IMAGE,
        image_seq_length=height * width,
        tie_word_embeddings=False,
    )


def _internvl_pixels(size: Size, batch: int) -> dict[str, Tensor]:
    (height, width), *_ = size.grids
    return {"pixel_values": torch.randn(batch * len(size.grids), 3, 2 * height * _PATCH, 2 * width * _PATCH)}


def _llama(text: Text) -> PreTrainedConfig:
    return LlamaConfig(
        vocab_size=text.vocabulary,
        hidden_size=text.hidden,
        intermediate_size=text.intermediate,
        num_hidden_layers=text.blocks,
        num_attention_heads=text.heads,
        num_key_value_heads=text.key_heads,
        max_position_embeddings=8192,
    )


SCALES = ("tiny", "small", "full")
SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape(
            "llava",
            "LLaVA-1.5-7B",
            "llava",
            {
                "tiny": Size(Text(64, 128, 8, 4, 4, 128), Vision(32, 64, 2, 2), ((6, 6),)),
                "small": Size(Text(512, 1376, 32, 8, 8, 2048), Vision(256, 1024, 6, 4), ((24, 24),)),
                "full": Size(Text(4096, 11008, 32, 32, 32, 32064), Vision(1024, 4096, 24, 16), ((24, 24),)),
            },
            _llava,
            _llava_pixels,
        ),
        Shape(
            "qwen2_vl",
            "Qwen2-VL-7B",
            "qwen2_vl",
            {
                "tiny": Size(Text(64, 128, 8, 4, 2, 128), Vision(32, 64, 2, 2), ((6, 8),)),
                "small": Size(Text(448, 2368, 28, 7, 1, 2048), Vision(192, 768, 8, 3), ((24, 24),)),
                "full": Size(Text(3584, 18944, 28, 28, 4, 152064), Vision(1280, 5120, 32, 16), ((24, 24),)),
            },
            _qwen2_vl,
            _qwen2_vl_pixels,
        ),
        Shape(
            "internvl",
            "InternVL2-8B, four tiles and a thumbnail",
            "internvl",
            {
                "tiny": Size(Text(64, 128, 8, 4, 2, 128), Vision(32, 64, 2, 2), ((4, 4),) * 3),
                "small": Size(Text(512, 1792, 32, 8, 2, 2048), Vision(256, 1024, 4, 4), ((16, 16),) * 5),
                "full": Size(Text(4096, 14336, 32, 32, 8, 92553), Vision(1024, 4096, 24, 16), ((16, 16),) * 5),
            },
            _internvl,
            _internvl_pixels,
        ),
    )
}
