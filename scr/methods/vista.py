"""VISTA (arXiv 2502.03628): steer every MLP towards what the image has changed, and hear earlier layers too."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity, relu
from transformers import PreTrainedModel

from .._hooks import GenerateCall, StepHooks, after_mlp, find_family, last_states, turn
from ..branches.prompts import without_images
from ..contrast import plausible_tokens
from ..fields import Factor, Share
from .base import Lever, MethodConfig
from .depth import within
from .layers import LayersProcessor, read_layers
from .steps import StepsMethod


@dataclass(frozen=True, kw_only=True, repr=False)
class VistaConfig(MethodConfig):
    """The values of VISTA's code for captions; for yes/no questions it takes a strength of 0.01.

    Attributes:
        strength: how far an MLP's output is turned, beside its own direction of 1; 0 turns nothing, to the bit, and
            needs no run of the prompt beside the first.
        early_share: of the earlier layers' logits in the mixture; 0 hears the last layer alone.
        early_layers: hidden states whose logits are averaged, counted as transformers' `hidden_states`: l is that after
            l blocks; None takes 25 to 30 of 32, scaled by depth.
    """

    symbols: ClassVar[Mapping[str, str]] = {
        "VISTA's λ": "strength",
        "VISTA's vsv_lambda": "strength",
        "VISTA's γ": "early_share",
        "VISTA's logits_alpha": "early_share",
        "VISTA's logits_layers": "early_layers",
    }

    strength: Factor = 0.17
    early_share: Share = 0.3
    early_layers: range | None = None


class Vista(StepsMethod):
    """`x ← normalise(x̂ + strength · (1 + max(0, cos(x, −v))) · v̂) · ‖x‖` for what each block's MLP puts out.

    Of all tokens, at prefill and after it. v is, for each prompt and block, the state of the prompt's last token with
    the image less the one without it: two runs of the prompt before the first token. Then `(1 − early_share) · last +
    early_share · mean of the early layers`, logits without the final norm.

    The public code takes one prompt at a time in half precision; here each row has its vector, and angles and lengths
    are float32. The prompt without the image is the same ids without the image's, positions made anew.
    """

    name: ClassVar[str] = "vista"
    paper: ClassVar[str] = "arXiv 2502.03628"
    config_class: ClassVar[type[MethodConfig]] = VistaConfig
    requires: ClassVar[tuple[Lever, ...]] = ("activations", "logits")

    config: VistaConfig

    def __init__(self, model: PreTrainedModel, config: VistaConfig) -> None:
        """See `Method`."""
        super().__init__(model, config)
        family = find_family(model)
        self._blocks = list(family.layers(model))
        for block in self._blocks:
            family.mlp(block)
        layers = within("early_layers", config.early_layers, range(25, 31), len(self._blocks))
        self.config = replace(config, early_layers=layers)

    def place(self, model: PreTrainedModel, hooks: StepHooks) -> None:
        """See `StepsMethod`."""
        if self.config.strength:
            for block in range(len(self._blocks)):
                after_mlp(hooks, model, block, functools.partial(_Vista.steer, block=block))
        if self.config.early_share:
            read_layers(hooks, model, cast(range, self.config.early_layers))

    def start(self, call: GenerateCall) -> Any:
        """See `StepsMethod`."""
        self.refuse_parts(call)
        return _Vista(call.model, call.model_inputs, self.config)


class _Vista(LayersProcessor):
    def __init__(self, model: Any, inputs: dict[str, Any], config: VistaConfig) -> None:
        super().__init__(model, inputs, cast(range, config.early_layers))
        self._config = config
        if config.strength:
            without = last_states(model, without_images(model, inputs))
            self._vectors = last_states(model, inputs).float() - without.float()

    def steer(self, answer: Float[Tensor, "rows seq dim"], block: int) -> Float[Tensor, "rows seq dim"]:
        copies = len(answer) // len(self._with_image)
        vector = self._vectors[block].to(answer.device).repeat_interleave(copies, dim=0)[:, None]
        rows = self._with_image.to(answer.device).repeat_interleave(copies)[:, None, None]
        away = relu(cosine_similarity(answer.float(), -vector, dim=-1))[..., None]
        turned = turn(answer, vector, self._config.strength * (1 + away))
        return torch.where(rows, turned.to(answer.dtype), answer)

    def change(
        self, input_ids: Int[Tensor, "rows length"], scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        share = self._config.early_share
        if not share:
            return scores.float()
        early = self.early_logits().to(scores.device).float().mean(dim=0)
        banned = ~plausible_tokens(scores, 0)
        return ((1 - share) * scores.float() + share * early).masked_fill(banned, -math.inf)
