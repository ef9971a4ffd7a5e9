"""DoLa (arXiv 2309.03883): contrast the last layer with the earlier one that differs most from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel

from .._hooks import GenerateCall, StepHooks, find_family
from ..contrast import plausible_tokens
from ..errors import ConfigError
from ..fields import SOME, Index, Share
from .base import Lever, MethodConfig
from .layers import LayersProcessor, read_layers
from .steps import StepsMethod


@dataclass(frozen=True, kw_only=True, repr=False)
class DoLaConfig(MethodConfig):
    """Which layers may be the earlier one (arXiv 2309.03883).

    Attributes:
        layers: `"low"`, every second layer of the lower half; `"high"`, of the upper; or indices of hidden states, 0
            for the embeddings and N for the last of N blocks, which may not be among them. The names are resolved as
            in the transformers release that had DoLa; one index leaves nothing to choose.
        plausibility: tokens whose probability is below this share of the highest are banned (`relative_top`).
    """

    symbols: ClassVar[Mapping[str, str]] = {
        "DoLa's α": "plausibility",
        "DoLa's relative_top": "plausibility",
        "DoLa's dola_layers": "layers",
    }

    layers: Literal["low", "high"] | Annotated[tuple[Index, ...], SOME] = "low"
    plausibility: Share = 0.1

    def candidates(self, num_layers: int, tied: bool) -> tuple[int, ...]:
        """The hidden states to choose from, ascending.

        Args:
            num_layers: blocks of the decoder.
            tied: whether the language head shares the embeddings' weights: then they alone say nothing.

        Raises:
            ConfigError: for an index that is no earlier layer.
        """
        first = min(2, num_layers - 1) if tied else 0
        if self.layers == "low":
            return tuple(range(first, num_layers // 2 if num_layers <= 40 else 20, 2)) or (first,)
        if self.layers == "high":
            return tuple(range(num_layers // 2 if num_layers <= 40 else num_layers - 20, num_layers, 2))
        chosen = tuple(sorted({int(layer) for layer in self.layers}))
        if chosen[-1] >= num_layers:
            raise ConfigError(
                f"layers leave the model: got {chosen}; expected indices below {num_layers}, the last layer. "
                "Name earlier ones."
            )
        return chosen


def contrast_layers(
    final: Float[Tensor, "rows vocab"], early: Float[Tensor, "layers rows vocab"], plausibility: float
) -> tuple[Float[Tensor, "rows vocab"], Int[Tensor, "rows"]]:
    """`log p − log q`, where q is the layer of the highest divergence from the last one, for each row its own.

    The divergence is that of DoLa's code, `KL(M ‖ p) + KL(M ‖ q)` with `M = (p + q)/2`, and not the textbook's
    `KL(p ‖ M) + KL(q ‖ M)`. Its code also takes the mean over the batch, so that an answer depends on its neighbours.

    Args:
        final: logits or log-probabilities of the last layer.
        early: logits of the earlier layers, without the final norm.
        plausibility: tokens outside `plausible_tokens` of `final` get −∞.

    Returns:
        The scores, as float32, and which layer was chosen.
    """
    kept = plausible_tokens(final, plausibility)
    allowed = plausible_tokens(final, 0)  # banned tokens have no part in the divergence either
    p = final.float().masked_fill(~allowed, -math.inf).log_softmax(dim=-1)
    q = early.float().masked_fill(~allowed, -math.inf).log_softmax(dim=-1)
    middle = torch.logaddexp(p, q) - math.log(2)
    divergence = torch.where(allowed, middle.exp() * (2 * middle - p - q), 0).sum(dim=-1)
    chosen = divergence.argmax(dim=0)
    of_chosen = q.gather(0, chosen[None, :, None].expand(1, *final.shape))[0]
    return torch.where(kept, p - of_chosen, -math.inf), chosen


class DoLa(StepsMethod):
    """Contrast layers at every step; no second forward."""

    name: ClassVar[str] = "dola"
    paper: ClassVar[str] = "arXiv 2309.03883"
    config_class: ClassVar[type[MethodConfig]] = DoLaConfig
    requires: ClassVar[tuple[Lever, ...]] = ("logits",)

    config: DoLaConfig

    def __init__(self, model: PreTrainedModel, config: DoLaConfig) -> None:
        """See `Method`."""
        super().__init__(model, config)
        tied = bool(getattr(model.config, "tie_word_embeddings", False))
        self.candidates = config.candidates(len(find_family(model).layers(model)), tied)

    def place(self, model: PreTrainedModel, hooks: StepHooks) -> None:
        """See `StepsMethod`."""
        read_layers(hooks, model, self.candidates)

    def start(self, call: GenerateCall) -> LogitsProcessor:
        """See `StepsMethod`."""
        return _LayerContrast(call.model, call.model_inputs, self.candidates, self.config.plausibility)


class _LayerContrast(LayersProcessor):
    def __init__(self, model: Any, inputs: dict[str, Any], layers: tuple[int, ...], plausibility: float) -> None:
        super().__init__(model, inputs, layers)
        self._plausibility = plausibility

    def change(
        self, input_ids: Int[Tensor, "rows length"], scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        return contrast_layers(scores, self.early_logits().to(scores.device), self._plausibility)[0]
