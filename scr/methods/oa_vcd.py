"""OA-VCD, in its style (arXiv 2602.11737): contrast with the image whose salient objects are covered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from .._hooks import GenerateCall
from ..branches.branch import Branch
from ..branches.saliency import CoverSalient, tower_saliency
from ..contrast import contrast_logits
from ..fields import Factor, Share
from ..perturb import BlankImage, NamedPerturbation
from .base import MethodConfig
from .branching import BranchesConfig, BranchesMethod, Others

_BLANK = BlankImage()


@dataclass(frozen=True, kw_only=True, repr=False)
class OAVCDConfig(BranchesConfig):
    """VCD's contrast and plausibility, since the paper's are not public; for what is ours see `OAVCD`.

    Attributes:
        edited, engine: see `BranchesConfig`.
        saliency: `"tower"`, the model's own vision tower (`ModelFamily.salience`), or a callable that gets one image's
            normalised pixels (tiles, 3, height, width) and returns a map (tiles, rows, columns) of numbers ≥ 0.
            JSON cannot hold a callable.
        covered: the share of each tile's map that the covered patches make up; 0 covers nothing.
        fill: what covered pixels become: those of the image under this perturbation; `"blank"` is the mean colour.
        contrast: how strongly (VCD's α).
        plausibility: tokens whose probability is below this share of the highest are banned (VCD's β); 0: none.
    """

    symbols: ClassVar[Mapping[str, str]] = {"VCD's α": "contrast", "VCD's β": "plausibility"}
    example: ClassVar[Mapping[str, Any]] = {"contrast": 2.0}

    saliency: Literal["tower"] | Callable = "tower"
    covered: Share = 0.6
    fill: NamedPerturbation = _BLANK
    contrast: Factor = 1.0
    plausibility: Share = 0.1


class OAVCD(BranchesMethod):
    """`(1 + α)·l − α·l_covered`, where the most salient patches of the image are covered. No code of it is public.

    What the abstract says is kept: one pass of a self-supervised ViT tells per image, whatever the prompt, what stands
    out; that is filled with a neutral colour, and contrasted as VCD does. What is ours: the map is that of the model's
    own tower and not DINO's (what its class or pooling token attends to in its last block, mean over heads, else the
    mean over all patches; Chameleon's convolutions: how far features are from their mean); the smallest set of patches
    that makes up 60 % of a tile's map is covered, each tile for itself; the fill is 0, the mean of normalised pixels.
    """

    name: ClassVar[str] = "oa_vcd"
    paper: ClassVar[str] = "arXiv 2602.11737"
    config_class: ClassVar[type[MethodConfig]] = OAVCDConfig

    config: OAVCDConfig

    def branches(self, call: GenerateCall) -> Sequence[Branch]:
        """See `BranchesMethod`."""
        saliency = tower_saliency(call.model) if self.config.saliency == "tower" else self.config.saliency
        covering = CoverSalient(saliency=saliency, covered=self.config.covered, fill=self.config.fill)
        return [Branch(image=covering, edited=self.config.edited)]

    def combine(self, clean: Float[Tensor, "rows vocab"], others: Others, step: int) -> Float[Tensor, "rows vocab"]:
        """See `BranchesMethod`."""
        covered = others[0] if self.config.contrast else clean
        return contrast_logits(clean, covered, self.config.contrast, plausibility=self.config.plausibility)
