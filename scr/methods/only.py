"""ONLY (arXiv 2507.00898): second logits from one block's attention alone, and from its heads that favour text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from .._hooks import GenerateCall, HookStack, StepHooks, beside_generate, find_family, image_tokens, tap_attention
from ..contrast import fuse_logits
from ..errors import UnsupportedModelError
from ..fields import Factor, Number, Share
from .base import Lever, MethodConfig
from .layers import LayersProcessor, read_layers
from .steps import StepsMethod
from .text_heads import TextHeads


@dataclass(frozen=True, kw_only=True, repr=False)
class ONLYConfig(MethodConfig):
    """The values of the public code.

    Attributes:
        agreement: rows whose two distributions differ by less, in L1 (from 0 to 2), take `clean + added·second`.
        added: see `agreement`.
        contrast: the others take `(1 + contrast)·clean − contrast·second`.
        plausibility: tokens below this share of the highest probability are banned.
        residual: share of the last block's input in the second stream.
        deviations: attention above a head's mean and so many standard deviations is zeroed.
    """

    symbols: ClassVar[Mapping[str, str]] = {
        "ONLY's γ": "agreement",
        "ONLY's α1": "added",
        "ONLY's α2": "contrast",
        "ONLY's β": "plausibility",
    }

    agreement: Factor = 0.2
    added: Factor = 3.0
    contrast: Factor = 1.0
    plausibility: Share = 0.1
    residual: Factor = 0.2
    deviations: Number = 1.0


class ONLY(StepsMethod):
    """Fuse the logits with second ones, which cost an output projection, an MLP and a head product per token.

    At the first block the last token's attention loses its outliers, and the heads whose entropy over text, as a share
    of that over the image, is below the mean of all heads. What the rest puts out skips all blocks but the last, there
    `input_layernorm(it) + residual·(what comes into that block)` goes through the MLP, the final norm and the head.

    Ours, where the public code leaves it open or serves one prompt: each row counts by itself, with all its images;
    padding is no text; outliers are told among the keys that a head sees, and are not made up for; entropies are of
    what is left, brought to a sum of 1 within text and within the image; the residual is the model's own stream; and
    greedy decoding takes the highest of the fused logits, where the code samples alone.
    """

    name: ClassVar[str] = "only"
    paper: ClassVar[str] = "arXiv 2507.00898"
    requires: ClassVar[tuple[Lever, ...]] = ("attention", "logits")
    config_class: ClassVar[type[MethodConfig]] = ONLYConfig

    config: ONLYConfig

    def __init__(self, model: PreTrainedModel, config: ONLYConfig) -> None:
        """See `Method`."""
        super().__init__(model, config)
        family = find_family(model)
        last: Any = family.layers(model)[-1]
        family.final_norm(model)
        if family.state_module is not None:
            raise UnsupportedModelError(
                f"a hybrid: got {type(model).__name__}, some of whose blocks carry a state on in place of attention "
                "maps; expected attention in the first block and the last, of Llama's or Qwen2's build. Use a method "
                "that contrasts with another run, such as 'vcd'."
            )
        family.mlp(last)
        if family.attention_update(last) is not last.self_attn or not hasattr(last.self_attn, "o_proj"):
            raise UnsupportedModelError(
                f"decoder block of another build: got {type(last).__name__}; expected norms before attention and "
                "MLP, and an output projection `o_proj`. Use a decoder of Llama's or Qwen2's build."
            )

    def install(self, model: PreTrainedModel, stack: HookStack) -> None:
        """See `Method`."""
        tap_attention(model, stack)
        super().install(model, stack)

    def place(self, model: PreTrainedModel, hooks: StepHooks) -> None:
        """See `StepsMethod`."""
        read_layers(hooks, model, [len(find_family(model).layers(model)) - 1])

    def start(self, call: GenerateCall) -> Any:
        """See `StepsMethod`."""
        heads = TextHeads(image_tokens(call.model, call.model_inputs), self.config.deviations)
        call.attending.append(heads)
        return _Fusion(call, self.config, heads)


class _Fusion(LayersProcessor):
    def __init__(self, call: GenerateCall, config: ONLYConfig, heads: TextHeads) -> None:
        blocks = find_family(call.model).layers(call.model)
        self._block: Any = blocks[-1]
        self._before = len(blocks) - 1
        super().__init__(call.model, call.model_inputs, [self._before], normed=True)
        self._config, self._heads = config, heads

    @torch.no_grad()
    def change(
        self, input_ids: Int[Tensor, "rows length"], scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        config, block, stream = self._config, self._block, self.hidden[self._before]
        with beside_generate():
            skipped = block.input_layernorm(self._heads.output.to(stream))
            mixed = skipped + config.residual * stream
            # A mixture of experts wants a token axis.
            second = self.says(mixed + block.mlp(block.post_attention_layernorm(mixed)[:, None])[:, 0])
        return fuse_logits(
            scores,
            second.to(scores.device),
            config.agreement,
            config.added,
            config.contrast,
            plausibility=config.plausibility,
        )
