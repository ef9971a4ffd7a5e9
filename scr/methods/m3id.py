"""M3ID (CVPR 2024, arXiv 2403.14003): contrast with the prompt without its image, the more the longer the answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from .._hooks import GenerateCall
from ..branches.branch import Branch
from ..branches.prompts import without_images
from ..contrast import confidence, contrast_logits
from ..fields import LARGEST, Factor, Share
from .base import MethodConfig
from .branching import BranchesConfig, BranchesMethod, Others


@dataclass(frozen=True, kw_only=True, repr=False)
class M3IDConfig(BranchesConfig):
    """The values of M3ID as it is re-implemented beside AvisC; its own code is not public.

    Attributes:
        edited, engine: see `BranchesConfig`; a prompt without an image has nothing to edit.
        fading: how fast the image's hold on an answer fades: g = e^(−fading·t), t from 0 (M3ID's λ); at 0 nothing is
            contrasted.
        plausibility: tokens whose probability is below this share of the highest are banned; 0: none.
        only_below: contrast only where the highest probability is less; None: everywhere. The paper gates so, its
            re-implementation beside AvisC does not, and that beside CRoPS takes 0.95.
    """

    symbols: ClassVar[Mapping[str, str]] = {"M3ID's λ": "fading", "M3ID's β": "plausibility", "M3ID's α": "only_below"}
    example: ClassVar[Mapping[str, Any]] = {"fading": 1.0}

    fading: Factor = 0.02
    plausibility: Share = 0.1
    only_below: Share | None = None


class M3ID(BranchesMethod):
    """`l + (1−g)/g · (l − l_text)` with `g = e^(−λt)`: see `M3IDConfig`.

    The prompt without the image keeps all text and the chat template, which some ports lose. At the first token the
    weight is 0. A weight that would leave what a float holds stays at `fields.LARGEST`.
    """

    name: ClassVar[str] = "m3id"
    paper: ClassVar[str] = "arXiv 2403.14003"
    config_class: ClassVar[type[MethodConfig]] = M3IDConfig

    config: M3IDConfig

    def branches(self, call: GenerateCall) -> Sequence[Branch]:
        """See `BranchesMethod`."""
        return [Branch(prompt=without_images, edited=self.config.edited)]

    def combine(self, clean: Float[Tensor, "rows vocab"], others: Others, step: int) -> Float[Tensor, "rows vocab"]:
        """See `BranchesMethod`."""
        weight = fading_weight(self.config.fading, step)
        unsure = torch.ones(len(clean), dtype=torch.bool, device=clean.device)
        if self.config.only_below is not None:
            unsure = confidence(clean).exp() < self.config.only_below
        text = others[0] if weight and unsure.any() else clean
        return contrast_logits(clean, text, weight * unsure, plausibility=self.config.plausibility)

    def skips(self) -> bool:
        """See `BranchesMethod`."""
        return self.config.only_below is not None or not self.config.fading


def fading_weight(fading: float, step: int) -> float:
    """`(1−g)/g = e^(fading·step) − 1`, at most `fields.LARGEST`."""
    return math.expm1(min(fading * step, math.log1p(LARGEST)))
