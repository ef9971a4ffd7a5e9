"""AvisC (arXiv 2405.17820): contrast with what sees only the image tokens that draw attention from all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .._hooks import AttentionPlan, GenerateCall, LayerAttention, image_tokens
from ..branches.branch import Branch
from ..contrast import contrast_logits
from ..fields import Factor, Number, Share
from .base import MethodConfig
from .branching import BranchesConfig, BranchesMethod, Others


@dataclass(frozen=True, kw_only=True, repr=False)
class AvisCConfig(BranchesConfig):
    """The paper's values: half of the attention, a standard deviation, contrast 1, plausibility 0.1.

    Attributes:
        layer_share: blocks are taken, those with the largest share of attention on the image first, until they hold
            this share of it (the paper's γ).
        deviations: an image token is blind if its attention there is at least the mean and so many standard deviations
            (its λ).
        contrast: `(1 + contrast)·clean − contrast·blind` (its α).
        plausibility: tokens below this share of the highest probability are banned (its β).
    """

    symbols: ClassVar[Mapping[str, str]] = {
        "AvisC's γ": "layer_share",
        "AvisC's λ": "deviations",
        "AvisC's α": "contrast",
        "AvisC's β": "plausibility",
    }
    example: ClassVar[Mapping[str, Any]] = {"contrast": 3.0}

    layer_share: Share = 0.5
    deviations: Number = 1.0
    contrast: Factor = 1.0
    plausibility: Share = 0.1


class AvisC(BranchesMethod):
    """Contrast with the same prompt where all but the blind image tokens are zeros.

    Which they are is settled by the prompt's last token and holds for the whole answer. Differs from the public code,
    which serves one prompt and one image at a time: rows are judged each by itself, all images of a row together.
    """

    name: ClassVar[str] = "avisc"
    paper: ClassVar[str] = "arXiv 2405.17820"
    config_class: ClassVar[type[MethodConfig]] = AvisCConfig
    ranks_keys: ClassVar[bool] = True

    config: AvisCConfig

    def branches(self, call: GenerateCall) -> Sequence[Branch]:
        """See `BranchesMethod`."""
        reading = _Reading(image_tokens(call.model, call.model_inputs))
        call.attending.append(reading)
        return [Branch(sees=_Blind(self.config, reading), edited=self.config.edited)]

    def combine(self, clean: Float[Tensor, "rows vocab"], others: Others, step: int) -> Float[Tensor, "rows vocab"]:
        """See `BranchesMethod`."""
        return contrast_logits(clean, others[0], self.config.contrast, plausibility=self.config.plausibility)


def blind_tokens(
    attention: Float[Tensor, "layers tokens"], layer_share: float, deviations: float
) -> Bool[Tensor, "tokens"]:
    """Which tokens of a row's images draw attention by themselves, in the blocks that look at images most.

    Args:
        attention: of the last token to each image token, averaged over heads.
        layer_share: see `AvisCConfig`.
        deviations: likewise.
    """
    if not attention.shape[1]:
        return torch.zeros(0, dtype=torch.bool)
    shares, order = (attention.sum(dim=1) / attention.sum()).sort(descending=True, stable=True)
    before = shares.cumsum(dim=0) - shares
    mean = attention[order[before < layer_share]] if layer_share else attention[order[:1]]
    mean = mean.mean(dim=0)
    return mean >= mean.mean() + deviations * mean.std(correction=0)


class _Reading(AttentionPlan):
    """What the prompt's last token attends to, block by block; on the CPU."""

    def __init__(self, image: Bool[Tensor, "rows prompt"]) -> None:
        self.image, self.seen = image, dict[int, Tensor]()

    def attend(self, attention: LayerAttention) -> None:
        if attention.layer not in self.seen:  # the prefill comes first
            weights = attention.weights(attention.last_queries())
            seen = attention.by_token(attention.mean_over_heads(weights)[:, 0])
            self.seen[attention.layer] = seen[:: len(seen) // len(self.image)].cpu()


@dataclass(frozen=True)
class _Blind:
    config: AvisCConfig
    reading: _Reading

    def start(self, image: Bool[Tensor, "rows prompt"], real: Bool[Tensor, "rows prompt"]) -> AttentionPlan:
        seen = torch.stack(list(self.reading.seen.values()), dim=1)
        out = image.clone()
        for row, own in enumerate(image):
            out[row, own] = ~blind_tokens(seen[row][:, own], self.config.layer_share, self.config.deviations)
        return _Zeroed(out)


class _Zeroed(AttentionPlan):
    def __init__(self, tokens: Bool[Tensor, "rows prompt"]) -> None:
        self._tokens = tokens

    def embed(self, embeds: Float[Tensor, "rows seq dim"], past: int) -> Float[Tensor, "rows seq dim"]:
        return embeds if past else embeds.masked_fill(self._tokens.to(embeds.device)[:, :, None], 0)
