"""A control: adaptive plausibility without any contrast. Under sampling it is greedy decoding in disguise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from .._hooks import GenerateCall
from ..contrast import plausible_tokens
from ..fields import Share
from .base import MethodConfig
from .logits import ImageRowsProcessor, LogitsMethod


@dataclass(frozen=True, kw_only=True, repr=False)
class PlausibilityOnlyConfig(MethodConfig):
    """How strict the constraint is (VCD's, arXiv 2311.16922).

    Attributes:
        plausibility: tokens whose probability is below this share of the highest are banned (VCD's β); 0: none.
    """

    symbols: ClassVar[Mapping[str, str]] = {"VCD's β": "plausibility", "VCD's cd_beta": "plausibility"}
    example: ClassVar[Mapping[str, Any]] = {"plausibility": 0.5}

    plausibility: Share = 0.1


class PlausibilityOnly(LogitsMethod):
    """Ban implausible tokens; greedy answers stay what they are."""

    name: ClassVar[str] = "plausibility_only"
    paper: ClassVar[str] = "arXiv 2311.16922"
    config_class: ClassVar[type[MethodConfig]] = PlausibilityOnlyConfig

    config: PlausibilityOnlyConfig

    def begin(self, call: GenerateCall) -> LogitsProcessor:
        """See `LogitsMethod`."""
        return _Constraint(call.model, call.model_inputs, self.config.plausibility)


class _Constraint(ImageRowsProcessor):
    def __init__(self, model: Any, inputs: dict[str, Any], plausibility: float) -> None:
        super().__init__(model, inputs)
        self._plausibility = plausibility

    def change(
        self, input_ids: Int[Tensor, "rows length"], scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        return scores.float().masked_fill(~plausible_tokens(scores, self._plausibility), -math.inf)
