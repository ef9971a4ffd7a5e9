"""Visual amplification fusion (ClearSight, arXiv 2503.13107): text looks more at images, less at the system prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from .._hooks import AttentionPlan, GenerateCall, LayerAttention, Placed, image_tokens
from ..fields import Factor
from .attention import AttentionMethod, InLayers, LooksAtImage, repeated
from .base import MethodConfig


@dataclass(frozen=True, kw_only=True, repr=False)
class VAFConfig(MethodConfig):
    """The values of the public code.

    Attributes:
        image_factor: what scores of image tokens are multiplied by.
        system_factor: what those of the tokens before a prompt's first image are multiplied by. With both at 1 the
            model stays as it is, to the bit.
        layers: blocks; None takes blocks 9 to 14 of 32, scaled by depth.
    """

    symbols: ClassVar[Mapping[str, str]] = {
        "VAF's enh_para": "image_factor",
        "VAF's sup_para": "system_factor",
        "VAF's β": "image_factor",
        "VAF's α": "system_factor",
    }
    example: ClassVar[Mapping[str, Any]] = {"image_factor": 3.0, "layers": range(1, 3)}

    image_factor: Factor = 1.15
    system_factor: Factor = 0.95
    layers: range | None = None


class VAF(InLayers, AttentionMethod):
    """Multiply scores before mask and softmax, for all text after a prompt's first image and each token generated.

    As in the public code signed scores are multiplied, so that a negative one sinks. That code knows one prompt whose
    system prompt and image have fixed lengths; here they are each row's own, all its images count, and padding stays
    masked. Text before the first image sees none, and keeps its scores. Which text the public code takes is our
    reading of it.
    """

    name: ClassVar[str] = "vaf"
    paper: ClassVar[str] = "arXiv 2503.13107"
    config_class: ClassVar[type[MethodConfig]] = VAFConfig
    published: ClassVar[range | None] = range(9, 15)

    config: VAFConfig

    def plan(self, call: GenerateCall) -> AttentionPlan | None:
        """See `AttentionMethod`."""
        config = self.config
        if config.image_factor == config.system_factor == 1:
            return None
        return _Fused(call, self.layers, config.image_factor, config.system_factor)


class _Fused(LooksAtImage):
    def __init__(self, call: GenerateCall, layers: Sequence[int], image_factor: float, system_factor: float) -> None:
        image = image_tokens(call.model, call.model_inputs)
        seen = image.cumsum(dim=1) > 0
        super().__init__(call, layers, seen & ~image)
        # Padding among it is masked in any case.
        self._system = Placed(~seen)
        self._image_factor, self._system_factor = image_factor, system_factor

    def look(
        self,
        attention: LayerAttention,
        queries: Int[Tensor, "rows queries"],
        where: Bool[Tensor, "rows queries"],
        image: Bool[Tensor, "rows keys"],
    ) -> None:
        system = attention.columns(repeated(attention, *self._system.on(attention.device)))
        factors = torch.ones(image.shape, device=image.device)
        factors = factors.masked_fill(image, self._image_factor).masked_fill(system, self._system_factor)
        attention.rescore(queries, where, lambda scores: scores * factors[:, None, None])
