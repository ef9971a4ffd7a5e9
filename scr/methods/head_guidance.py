"""Head guidance (arXiv 2411.16724): in the middle blocks, every head looks where all heads look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Bool, Int
from torch import Tensor

from .._hooks import AttentionPlan, GenerateCall, LayerAttention
from ..fields import Factor
from .attention import AttentionMethod, InLayers, LooksAtImage
from .base import MethodConfig


@dataclass(frozen=True, kw_only=True, repr=False)
class HeadGuidanceConfig(MethodConfig):
    """The values of the public code for LLaVA-1.5-7B.

    Attributes:
        strength: how much of the heads' mean is added; 0 leaves the model as it is, to the bit.
        layers: blocks; None takes blocks 5 to 17 of 32, scaled by depth.
    """

    symbols: ClassVar[Mapping[str, str]] = {"head guidance's α": "strength"}
    example: ClassVar[Mapping[str, Any]] = {"strength": 3.0, "layers": range(1, 3)}

    strength: Factor = 0.5
    layers: range | None = None


class HeadGuidance(InLayers, AttentionMethod):
    """`w + strength · mean of |w| over heads` for scores w of image tokens, at a prompt's last token and all after it.

    Differs from the public code as `PAI` does: only those tokens' rows are computed again, beside any kernel.
    """

    name: ClassVar[str] = "head_guidance"
    paper: ClassVar[str] = "arXiv 2411.16724"
    config_class: ClassVar[type[MethodConfig]] = HeadGuidanceConfig
    published: ClassVar[range | None] = range(5, 18)

    config: HeadGuidanceConfig

    def plan(self, call: GenerateCall) -> AttentionPlan | None:
        """See `AttentionMethod`."""
        return _Guided(call, self.layers, self.config.strength) if self.config.strength else None


class _Guided(LooksAtImage):
    def __init__(self, call: GenerateCall, layers: Sequence[int], strength: float) -> None:
        super().__init__(call, layers)
        self._strength = strength

    def look(
        self,
        attention: LayerAttention,
        queries: Int[Tensor, "rows queries"],
        where: Bool[Tensor, "rows queries"],
        image: Bool[Tensor, "rows keys"],
    ) -> None:
        share = self._strength * image[:, None, None]
        attention.rescore(
            queries, where, lambda scores: scores + share * attention.mean_over_heads(scores.abs())[:, None]
        )
