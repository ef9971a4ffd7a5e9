"""CRoPS (arXiv 2601.00659): contrast with a run without the image, and with one that sees little of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from .._hooks import GenerateCall
from ..branches.branch import Branch
from ..branches.keys import LeastAttended, require_block
from ..branches.prompts import without_images
from ..contrast import confidence, contrast_logits, growing_contrast, plausible_tokens
from ..fields import Count, Factor, Index, Share
from ..kinds import Between
from .base import MethodConfig
from .branching import BranchesConfig, BranchesMethod, Others


@dataclass(frozen=True, kw_only=True, repr=False)
class CRoPSConfig(BranchesConfig):
    """The constants of the public code.

    Attributes:
        rate: λ: the run without the image is contrasted by `e^(rate·t) − 1`, t from 1 on.
        contrast: α, of the run that sees little of the image.
        plausibility: β: tokens below this share of the highest probability are banned, and the rest is normalised,
            before anything is contrasted.
        sure_above: a row whose highest probability is above this is not contrasted.
        image_kept: share of the image tokens that the third run sees, the least attended ones; rounded up.
        text_kept: how many text tokens the run without the image sees at first, the least attended ones.
        text_more: how many more in the end: `text_kept + text_more·(1 − e^(−text_rate·t))`, rounded down.
        text_rate: how fast.
        first_layer: the first block where both see no others; they are ranked at the block before.
    """

    symbols: ClassVar[Mapping[str, str]] = {
        "CRoPS' λ": "rate",
        "CRoPS' α": "contrast",
        "CRoPS' β": "plausibility",
        "CRoPS' max_threshold": "sure_above",
    }
    example: ClassVar[Mapping[str, Any]] = {"contrast": 3.0, "text_kept": 3, "first_layer": 1}

    rate: Factor = 0.01
    contrast: Factor = 1.0
    plausibility: Share = 0.1
    sure_above: Share = 0.95
    image_kept: Share = 0.25
    text_kept: Count = 10
    text_more: Index = 30
    text_rate: Factor = 0.001
    first_layer: Annotated[int, Between(1)] = 2


class CRoPS(BranchesMethod):
    """Generalised contrastive decoding: two nested contrasts, for language priors and for statistical bias.

    Differs from the public code, which serves one prompt at a time: rows are ranked, and gated, each by itself; padding
    is no text; a token always sees itself, so that no row of a prompt is left without any key; what is ranked among the
    text is all but the last token. Its prompt without the image is made of the ids (`scr.branches.prompts`).
    """

    name: ClassVar[str] = "crops"
    paper: ClassVar[str] = "arXiv 2601.00659"
    config_class: ClassVar[type[MethodConfig]] = CRoPSConfig
    ranks_keys: ClassVar[bool] = True

    config: CRoPSConfig

    def __init__(self, model: PreTrainedModel, config: CRoPSConfig) -> None:
        """See `Method`."""
        super().__init__(model, config)
        require_block(model, config.first_layer)

    def branches(self, call: GenerateCall) -> Sequence[Branch]:
        """See `BranchesMethod`."""
        config = self.config

        def of_text(count: int, step: int) -> int:
            return math.floor(config.text_kept + config.text_more * (1 - math.exp(-config.text_rate * step)))

        def of_image(count: int, step: int) -> int:
            return math.ceil(config.image_kept * count)

        text = LeastAttended(keys="text", kept=of_text, first_layer=config.first_layer)
        image = LeastAttended(keys="image", kept=of_image, first_layer=config.first_layer)
        return [
            Branch(prompt=without_images, sees=text, edited=config.edited),
            Branch(sees=image, edited=config.edited),
        ]

    def combine(self, clean: Float[Tensor, "rows vocab"], others: Others, step: int) -> Float[Tensor, "rows vocab"]:
        """See `BranchesMethod`."""
        config = self.config
        kept = plausible_tokens(clean, config.plausibility)
        clean = clean.float().masked_fill(~kept, -math.inf).log_softmax(dim=-1)
        sure = confidence(clean) > math.log(config.sure_above) if config.sure_above else torch.ones(len(clean)).bool()
        language, little = others[0].float().log_softmax(dim=-1), others[1].float().log_softmax(dim=-1)
        contrasted = contrast_logits(clean, language, growing_contrast(step + 1, config.rate))
        contrasted = contrast_logits(contrasted, little, config.contrast)
        return torch.where(sure[:, None].to(clean.device), clean, contrasted)
