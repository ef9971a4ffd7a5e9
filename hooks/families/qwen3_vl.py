"""Qwen3-VL: as Qwen2-VL, but deeper features of the tower enter after the first blocks, and frames are runs apart."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import PreTrainedModel

from .qwen2_vl import Qwen2VL


class Qwen3VL(Qwen2VL):
    """`Qwen3VLForConditionalGeneration`, `Qwen3VLMoeForConditionalGeneration`: `Qwen/Qwen3-VL-8B-Instruct`, ...

    Timestamps, which are text, part the time steps of a video: each is an image of its own.
    """

    name: ClassVar[str] = "qwen3_vl"
    summary: ClassVar[str] = "Qwen3-VL, also MoE: as Qwen2-VL, each time step of a video an image of its own"
    model_types: ClassVar[tuple[str, ...]] = ("qwen3_vl", "qwen3_vl_moe")
    # Qwen2-VL's share of 28 blocks, of the 8B's 36; the paper has no Qwen3-VL.
    edit_layers: ClassVar[range] = range(0, 21)
    attention_layers: ClassVar[range] = range(10, 22)

    def blocks_added_to(self, model: PreTrainedModel) -> range:
        """DeepStack: one level of features after each of the first blocks. See `ModelFamily.blocks_added_to`."""
        vision: Any = model.config.vision_config
        return range(len(vision.deepstack_visual_indexes))
