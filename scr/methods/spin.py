"""SPIN (arXiv 2505.16411): in each block, the heads that look least at the image are turned down."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .._hooks import AttentionPlan, GenerateCall, LayerAttention
from ..fields import Factor
from ..kinds import Between
from .attention import AttentionMethod, InLayers, LooksAtImage
from .base import MethodConfig


@dataclass(frozen=True, kw_only=True, repr=False)
class SPINConfig(MethodConfig):
    """The values of the public code for captions; for yes/no questions it takes 0.8 and 0.1.

    Attributes:
        kept: share of each block's heads that stay as they are, above 0; rounded down, and one at least.
        factor: what the outputs of the others are multiplied by. At 1, and where all are kept, the model stays as it
            is, to the bit.
        layers: blocks; None takes all.
    """

    symbols: ClassVar[Mapping[str, str]] = {"SPIN's r": "kept", "SPIN's α": "factor"}
    example: ClassVar[Mapping[str, Any]] = {"kept": 0.5}

    kept: Annotated[float, Between(0, 1, above=True)] = 0.95
    factor: Factor = 0.08
    layers: range | None = None


class SPIN(InLayers, AttentionMethod):
    """Multiply the outputs of heads by a factor, before the output projection.

    Heads are ranked by the sum of their scores of image tokens, before the softmax: at the prompt's last token, and
    anew at each token after it, each for itself. Of equal heads the first ones stay. All images of a row count.
    """

    name: ClassVar[str] = "spin"
    paper: ClassVar[str] = "arXiv 2505.16411"
    config_class: ClassVar[type[MethodConfig]] = SPINConfig

    config: SPINConfig

    def plan(self, call: GenerateCall) -> AttentionPlan | None:
        """See `AttentionMethod`."""
        config = self.config
        return None if config.kept == 1 or config.factor == 1 else _Ranked(call, self.layers, config)


class _Ranked(LooksAtImage):
    def __init__(self, call: GenerateCall, layers: Sequence[int], config: SPINConfig) -> None:
        super().__init__(call, layers)
        self._config = config

    def look(
        self,
        attention: LayerAttention,
        queries: Int[Tensor, "rows queries"],
        where: Bool[Tensor, "rows queries"],
        image: Bool[Tensor, "rows keys"],
    ) -> None:
        attention.require_all_heads()
        looks = attention.scores(queries).masked_fill(~image[:, None, None], 0).sum(dim=-1).transpose(1, 2)
        kept = max(1, math.floor(self._config.kept * looks.shape[2] + 1e-9))
        places = looks.argsort(dim=2, descending=True, stable=True).argsort(dim=2)
        factors = torch.where((places >= kept) & where[:, :, None], self._config.factor, 1.0)

        def turned_down(output: Float[Tensor, "rows seq heads dim"]) -> Float[Tensor, "rows seq heads dim"]:
            every = torch.ones(output.shape[:3], device=output.device)
            every = every.scatter(1, queries[:, :, None].expand_as(factors), factors)
            return (output * every[..., None]).to(output.dtype)

        attention.then(turned_down)
