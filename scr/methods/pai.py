"""PAI (arXiv 2407.21771): look harder at the image, and hold that against a run without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from jaxtyping import Bool, Float, Int
from torch import Tensor

from .._hooks import GenerateCall, LayerAttention
from ..branches.branch import Branch
from ..branches.prompts import without_images
from ..contrast import contrast_logits
from ..fields import LARGEST, Factor, Share
from ..kinds import Between
from .attention import InLayers, LooksAtImage
from .base import Lever, MethodConfig
from .branching import BranchesConfig, BranchesMethod, Others


@dataclass(frozen=True, kw_only=True, repr=False)
class PAIConfig(BranchesConfig):
    """The values of the public code's instructions. Each of the two parts can be off; with both off nothing changes.

    Attributes:
        strength: share of its own size by which a score on an image token grows; 0 leaves attention as it is.
        layers: blocks where it does; None takes blocks 2 to 31 of 32, scaled by depth.
        guidance: `guidance·(clean − text) + text`, in log-probabilities, where `text` is the run without the image; at
            1 there is no such run, and nothing is banned.
        plausibility: tokens below this share of the highest probability are banned.
    """

    symbols: ClassVar[Mapping[str, str]] = {
        "PAI's α": "strength",
        "PAI's γ": "guidance",
        "PAI's start_layer": "layers",
        "PAI's end_layer": "layers",
    }
    example: ClassVar[Mapping[str, Any]] = {"strength": 1.0, "guidance": 1.5}

    strength: Factor = 0.2
    layers: range | None = None
    guidance: Annotated[float, Between(1, LARGEST)] = 1.1
    plausibility: Share = 0.1


class PAI(InLayers, BranchesMethod):
    """`w + strength·|w|` for scores w of image tokens, at the prompt's last token and each token after it.

    Differs from the public code, which rebuilds eager attention for one prompt: only those tokens' rows are computed
    again, beside any kernel, with the model's own causal and padding masks, each row of a batch with its own image. The
    run without the image keeps the chat template, as there, and its attention is not changed.
    """

    name: ClassVar[str] = "pai"
    paper: ClassVar[str] = "arXiv 2407.21771"
    requires: ClassVar[tuple[Lever, ...]] = ("attention", "logits", "loop")
    config_class: ClassVar[type[MethodConfig]] = PAIConfig
    published: ClassVar[range | None] = range(2, 32)
    ranks_keys: ClassVar[bool] = True

    config: PAIConfig

    def branches(self, call: GenerateCall) -> Sequence[Branch]:
        """See `BranchesMethod`."""
        if self.config.strength:
            call.attending.append(_Amplified(call, self.layers, self.config.strength))
        return [Branch(prompt=without_images, edited=self.config.edited)] if self.config.guidance > 1 else []

    def combine(self, clean: Float[Tensor, "rows vocab"], others: Others, step: int) -> Float[Tensor, "rows vocab"]:
        """See `BranchesMethod`."""
        config = self.config
        if config.guidance == 1:
            return clean.float()
        beyond = config.guidance - 1
        return contrast_logits(clean, others[0], beyond, "logprobs", plausibility=config.plausibility)


class _Amplified(LooksAtImage):
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
        attention.rescore(queries, where, lambda scores: scores + share * scores.abs())
