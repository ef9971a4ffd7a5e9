"""DeCo (ICLR 2025): add what the earlier layer says that is surest of one of the likely tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel

from .._hooks import GenerateCall, StepHooks, find_family
from ..fields import Count, Factor, Share
from .base import Lever, MethodConfig
from .depth import within
from .layers import LayersProcessor, read_layers
from .steps import StepsMethod


@dataclass(frozen=True, kw_only=True, repr=False)
class DeCoConfig(MethodConfig):
    """The values of DeCo's code.

    Attributes:
        strength: of the earlier layer's logits beside the last one's; 0 leaves greedy answers as they are, while
            sampling is among the candidates alone.
        layers: hidden states to choose from, counted as transformers' `hidden_states`: l is that after l blocks; None
            takes 20 to 28 of 32, scaled by depth.
        top_p: the candidates are the likeliest tokens whose probabilities together reach this share.
        most_candidates: no more of them than that.
    """

    symbols: ClassVar[Mapping[str, str]] = {
        "DeCo's α": "strength",
        "DeCo's threshold_top_p": "top_p",
        "DeCo's threshold_top_k": "most_candidates",
        "DeCo's early_exit_layers": "layers",
    }
    example: ClassVar[Mapping[str, Any]] = {"strength": 2.0}

    strength: Factor = 0.6
    layers: range | None = None
    top_p: Share = 0.9
    most_candidates: Count = 20


def likely_tokens(scores: Float[Tensor, "rows vocab"], top_p: float, most: int) -> Bool[Tensor, "rows vocab"]:
    """The fewest tokens whose probabilities reach `top_p`, and no more than `most`; always the likeliest.

    Args:
        scores: logits or log-probabilities.
        top_p: from 0 to 1.
        most: at least 1.
    """
    found = scores.float().softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    kept = found.values.cumsum(dim=-1) - found.values < top_p
    kept[:, most:] = False
    kept[:, 0] = True
    return torch.zeros_like(kept).scatter(1, found.indices, kept & (found.values > 0))


def add_layer(
    final: Float[Tensor, "rows vocab"],
    early: Float[Tensor, "layers rows vocab"],
    likely: Bool[Tensor, "rows vocab"],
    strength: float,
) -> Float[Tensor, "rows vocab"]:
    """`final + strength · p · early[l]` among the likely tokens and −∞ elsewhere, for each row its own l and p.

    p is the highest probability that any layer gives to a likely token, and l that layer.

    Returns:
        Float32.
    """
    highest = early.float().softmax(dim=-1).masked_fill(~likely, 0).amax(dim=-1)
    sure, chosen = highest.max(dim=0)
    of_chosen = early.float().gather(0, chosen[None, :, None].expand(1, *final.shape))[0]
    return torch.where(likely, final.float() + strength * sure[:, None] * of_chosen, -math.inf)


class DeCo(StepsMethod):
    """Correct the last layer's logits by an earlier one's; no second forward.

    As in the public code, but for each row of a batch by itself; of the scores that beam search brings, likewise.
    """

    name: ClassVar[str] = "deco"
    paper: ClassVar[str] = "arXiv 2410.11779"
    config_class: ClassVar[type[MethodConfig]] = DeCoConfig
    requires: ClassVar[tuple[Lever, ...]] = ("logits",)

    config: DeCoConfig

    def __init__(self, model: PreTrainedModel, config: DeCoConfig) -> None:
        """See `Method`."""
        super().__init__(model, config)
        family = find_family(model)
        family.final_norm(model)
        layers = within("layers", config.layers, range(20, 29), len(family.layers(model)))
        self.config = replace(config, layers=layers)

    def place(self, model: PreTrainedModel, hooks: StepHooks) -> None:
        """See `StepsMethod`."""
        read_layers(hooks, model, cast(range, self.config.layers))

    def start(self, call: GenerateCall) -> LogitsProcessor:
        """See `StepsMethod`."""
        return _Corrected(call.model, call.model_inputs, self.config)


class _Corrected(LayersProcessor):
    def __init__(self, model: Any, inputs: dict[str, Any], config: DeCoConfig) -> None:
        super().__init__(model, inputs, cast(range, config.layers), normed=True)
        self._config = config

    def change(
        self, input_ids: Int[Tensor, "rows length"], scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        config = self._config
        likely = likely_tokens(scores, config.top_p, config.most_candidates)
        return add_layer(scores, self.early_logits().to(scores.device), likely, config.strength)
