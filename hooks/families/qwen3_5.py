"""Qwen3.5: as Qwen2-VL, but of four blocks three carry a state on in place of attention maps."""

from __future__ import annotations

from typing import ClassVar

from .qwen2_vl import Qwen2VL


class Qwen35(Qwen2VL):
    """`Qwen3_5ForConditionalGeneration`, `Qwen3_5MoeForConditionalGeneration`: `Qwen/Qwen3.5-9B`, ...

    All blocks are edited; attention is read in those that have any. Timestamps part the time steps of a video, as in
    Qwen3-VL; no features enter behind the first blocks.
    """

    name: ClassVar[str] = "qwen3_5"
    summary: ClassVar[str] = (
        "Qwen3.5, also MoE: as Qwen3-VL; attention is read in every fourth block, which alone has any"
    )
    model_types: ClassVar[tuple[str, ...]] = ("qwen3_5", "qwen3_5_moe")
    # Qwen2-VL's share of 28 blocks, of the 9B's 32; the paper has no Qwen3.5.
    edit_layers: ClassVar[range] = range(0, 18)
    attention_layers: ClassVar[range] = range(9, 19)
    state_module: ClassVar[str | None] = "linear_attn"
