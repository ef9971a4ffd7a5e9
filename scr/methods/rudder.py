"""RUDDER (arXiv 2511.10292): steer by what attention has added to the prompt, each token by how it points there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize, softplus
from transformers import PreTrainedModel

from .._hooks import GenerateCall, StepHooks, after_attention, find_family, real_tokens, rows_with_images
from ..fields import LARGEST, Factor, Index
from ..kinds import Between
from .base import MethodConfig
from .depth import with_maps, within
from .steps import StepsMethod


@dataclass(frozen=True, kw_only=True, repr=False)
class RudderConfig(MethodConfig):
    """The values that are published for LLaVA-1.5-7B. The strength is a length in its residual stream: others differ.

    Attributes:
        strength: the most that is added to a state, as a length; 0 leaves the model as it is, to the bit.
        slope: how sharply the gate follows the cosine between the state and the vector; 0: half open everywhere.
        offset: keeps the gate away from its ends; above 0.
        block: whose self-attention is read and steered, from 0; None takes block 30 of 32, scaled by depth.
    """

    symbols: ClassVar[Mapping[str, str]] = {
        "RUDDER's α_max": "strength",
        "RUDDER's k": "slope",
        "RUDDER's c": "offset",
        "RUDDER's L": "block",
    }

    strength: Factor = 20.0
    slope: Annotated[float, Between(-LARGEST, LARGEST)] = 5.0
    offset: Annotated[float, Between(0, LARGEST, above=True)] = 1.0
    block: Index | None = None


class Rudder(StepsMethod):
    """`h + strength · g · v` after a block's self-attention, at the prompt's last token and at each token after it.

    v is the mean, over the prompt's tokens, of what that self-attention adds to the residual stream at prefill, brought
    to length 1. `g = a / (a + b)` is the mean of a Beta distribution with `a = softplus(slope · cos(h, v)) + offset`
    and `b = softplus(−slope · cos(h, v)) + offset`.

    No public code is known. Ours: the gate's form, of which the paper's three numbers are all that was at hand; padding
    has no part in the mean; and the prompt's last token is steered too, since a yes/no answer is decided there.
    """

    name: ClassVar[str] = "rudder"
    paper: ClassVar[str] = "arXiv 2511.10292"
    config_class: ClassVar[type[MethodConfig]] = RudderConfig

    config: RudderConfig

    def __init__(self, model: PreTrainedModel, config: RudderConfig) -> None:
        """See `Method`."""
        super().__init__(model, config)
        family = find_family(model)
        layers = family.layers(model)
        chosen = None if config.block is None else range(config.block, config.block + 1)
        (self.block,) = with_maps("block", within("block", chosen, range(30, 31), len(layers)), model)
        self.config = replace(config, block=self.block)
        family.attention_update(layers[self.block])

    def place(self, model: PreTrainedModel, hooks: StepHooks) -> None:
        """See `StepsMethod`."""
        if self.config.strength:
            after_attention(hooks, model, self.block, _Rudder.steer)

    def start(self, call: GenerateCall) -> Any:
        """See `StepsMethod`."""
        self.refuse_parts(call)
        return _Rudder(self.config, call)


class _Rudder:
    def __init__(self, config: RudderConfig, call: GenerateCall) -> None:
        inputs = call.model_inputs
        self._config = config
        self._with_image = rows_with_images(call.model, inputs)
        prompt = inputs["input_ids"] if inputs.get("input_ids") is not None else inputs["inputs_embeds"]
        self._real: Bool[Tensor, "prompts length"] = real_tokens(inputs, *prompt.shape[:2])
        self._vector: Float[Tensor, "rows 1 dim"] | None = None

    def steer(
        self, hidden: Float[Tensor, "rows seq dim"], update: Float[Tensor, "rows seq dim"]
    ) -> Float[Tensor, "rows seq dim"]:
        config, length = self._config, self._real.shape[1]
        if self._vector is None:
            copies = len(hidden) // len(self._real)
            real = self._real.to(hidden.device).repeat_interleave(copies, dim=0)[..., None]
            self._rows = self._with_image.to(hidden.device).repeat_interleave(copies)[:, None, None]
            self._vector = normalize((update[:, :length].float() * real).sum(dim=1, keepdim=True), dim=-1)
        # Without a cache the prompt is in every forward; what is before its last token stays as it was.
        first = length - 1 if hidden.shape[1] >= length else 0
        own = hidden[:, first:].float()
        along = config.slope * cosine_similarity(own, self._vector, dim=-1)[..., None]
        opened, closed = softplus(along) + config.offset, softplus(-along) + config.offset
        steered = own + config.strength * opened / (opened + closed) * self._vector
        steered = torch.where(self._rows, steered.to(hidden.dtype), hidden[:, first:])
        return torch.cat([hidden[:, :first], steered], dim=1)
