"""Self-Introspective Decoding (arXiv 2408.02032): contrast with what sees only the least attended of the image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from transformers import PreTrainedModel

from .._hooks import GenerateCall
from ..branches.branch import Branch
from ..branches.keys import LeastAttended, require_block
from ..contrast import contrast_logits
from ..fields import Factor, Share
from ..kinds import Between
from .base import MethodConfig
from .branching import BranchesConfig, BranchesMethod, Combine


@dataclass(frozen=True, kw_only=True, repr=False)
class SIDConfig(BranchesConfig):
    """The paper's values: from block 2 on a share of 100 in 576 image tokens, contrast 1, plausibility 0.1.

    The public code keeps 100 of LLaVA's 576 image tokens for short answers, and 50 for captions: a share serves images
    of any size. Its samplers fall back to a contrast of 0.5; 1 is what its author says.

    Attributes:
        kept: share of each row's image tokens that the second branch sees, the least attended ones; rounded up. At 1 it
            sees all, and the answer is the unpatched model's.
        first_layer: the first block where it sees no others; they are ranked at the block before.
        contrast: `(1 + contrast)·clean − contrast·second` (the paper's α).
        plausibility: tokens below this share of the highest probability are banned (its β).
        compat: `"official"` leaves the ban out when decoding is greedy, as the public code does by mistake.
    """

    symbols: ClassVar[Mapping[str, str]] = {
        "SID's α": "contrast",
        "SID's β": "plausibility",
        "SID's fast_v_attention_rank": "kept",
        "SID's fast_v_agg_layer": "first_layer",
    }
    example: ClassVar[Mapping[str, Any]] = {"kept": 0.2, "first_layer": 1}

    kept: Share = 100 / 576
    first_layer: Annotated[int, Between(1)] = 2
    contrast: Factor = 1.0
    plausibility: Share = 0.1
    compat: Literal["official"] | None = None


class SID(BranchesMethod):
    """Contrast with the same prompt where only the least attended image tokens are visible.

    Differs from the public code, which serves one prompt at a time: each row is ranked by its own attention, padding
    stays hidden from the second branch too, and a hidden image token still sees itself. The attention that ranks is
    recomputed for the last token alone, under any kernel.
    """

    name: ClassVar[str] = "sid"
    paper: ClassVar[str] = "arXiv 2408.02032"
    config_class: ClassVar[type[MethodConfig]] = SIDConfig
    ranks_keys: ClassVar[bool] = True

    config: SIDConfig

    def __init__(self, model: PreTrainedModel, config: SIDConfig) -> None:
        """See `Method`."""
        super().__init__(model, config)
        require_block(model, config.first_layer)

    def branches(self, call: GenerateCall) -> Sequence[Branch]:
        """See `BranchesMethod`."""
        share = self.config.kept
        sees = LeastAttended(
            keys="image", kept=lambda count, step: math.ceil(share * count), first_layer=self.config.first_layer
        )
        return [Branch(sees=sees, edited=self.config.edited)]

    def combining(self, call: GenerateCall) -> Combine:
        """See `BranchesMethod`."""
        config = self.config
        banned = not (config.compat == "official" and not call.setting("do_sample"))
        plausibility = config.plausibility if banned else 0.0
        return lambda clean, others, step: contrast_logits(clean, others[0], config.contrast, plausibility=plausibility)
