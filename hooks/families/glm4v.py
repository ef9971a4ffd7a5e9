"""GLM-4.1V to 4.6V: as Qwen2-VL, told by M-RoPE positions, with the frames of a video as images of their own."""

from __future__ import annotations

from typing import Any, ClassVar

from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from .base import beside_runs
from .qwen2_vl import Qwen2VL


class Glm4V(Qwen2VL):
    """`Glm4vForConditionalGeneration`, `Glm4vMoeForConditionalGeneration`, `Glm46VForConditionalGeneration`.

    Such as `zai-org/GLM-4.1V-9B-Thinking`. The frames of a video stand between timestamps, and their tokens are those
    of images: a prompt holds one or the other.
    """

    name: ClassVar[str] = "glm4v"
    summary: ClassVar[str] = "GLM-4.1V, 4.5V, 4.6V: as Qwen2-VL, each time step of a video an image of its own"
    model_types: ClassVar[tuple[str, ...]] = ("glm4v", "glm4v_moe", "glm46v")
    # Qwen2-VL's share of 28 blocks, of the 9B's 40; the paper has no GLM.
    edit_layers: ClassVar[range] = range(0, 23)
    attention_layers: ClassVar[range] = range(11, 24)

    def attention_update(self, layer: nn.Module) -> nn.Module:
        """The norm behind attention, which the dense releases have. See `ModelFamily.attention_update`."""
        return getattr(layer, "post_self_attn_layernorm", None) or super().attention_update(layer)

    def visual_token_ids(self, config: PreTrainedConfig) -> dict[str, int]:
        """One token for both."""
        return {"image": config.image_token_id, "video": config.image_token_id}

    def frame_tokens(
        self, model: PreTrainedModel, visual: Bool[Tensor, "batch seq"], ids: Int[Tensor, "batch seq"]
    ) -> Bool[Tensor, "batch seq"]:
        """`<|begin_of_image|>` and `<|end_of_image|>`. See `ModelFamily.frame_tokens`."""
        config: Any = model.config
        return beside_runs(visual, ids, config.image_start_token_id, config.image_end_token_id)
