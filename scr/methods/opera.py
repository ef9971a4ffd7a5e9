"""OPERA (arXiv 2311.17911): beam search that penalises over-trust in its own words, and goes back to where it began."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from transformers import PreTrainedModel

from .._hooks import GenerateCall, HookStack, image_tokens, tap_attention
from ..decoding.opera import OverTrustLoop, why_not_searched
from ..decoding.reading import last_block_reader
from ..decoding.search import OverTrust
from ..errors import UnsupportedGenerationError
from ..fields import Count, Factor
from .base import Lever, MethodConfig
from .logits import LogitsMethod


@dataclass(frozen=True, kw_only=True, repr=False)
class OPERAConfig(MethodConfig):
    """The values of OPERA's code, which are for 5 beams.

    Attributes:
        penalty: what a candidate's over-trust is multiplied by before it is taken off its logit; 0: nothing is.
        scale: what attention to a word of the answer is multiplied by, so that strong attention is above 1.
        candidates: how many tokens each beam may choose from, and how often a search goes back to one place.
        threshold: go back where one word was the most trusted in more steps than this; None: never.
        compat: `"paper"`, or `"official"` for what OPERA's code does and its paper does not say: over-trust in float16,
            where it is soon infinite or 0, and in the first ten tokens a bonus for attention to the image instead.
    """

    symbols: ClassVar[Mapping[str, str]] = {
        "OPERA's α": "penalty",
        "OPERA's σ": "scale",
        "OPERA's r": "threshold",
        "OPERA's penalty_weights": "penalty",
        "OPERA's scale_factor": "scale",
        "OPERA's num_attn_candidates": "candidates",
    }

    penalty: Factor = 1.0
    scale: Factor = 50.0
    candidates: Count = 5
    threshold: Count | None = 15
    compat: Literal["paper", "official"] = "paper"


class OPERA(LogitsMethod):
    """Search each prompt's answer with beams, penalties and returns; see `scr.decoding`.

    A candidate's over-trust is the strongest column of the answer's attention, `1e-7 · ∏ σ·a` from a column's own token
    on, where a is the highest of the last block's heads as a share of its row. The paper has the penalty and the
    return; the factor is the code's. Other than in the public code:

    - products are sums of logarithms in float32, and no penalty is above 500 nats; its float16 is `compat="official"`,
      as is its bonus for the image in the first ten tokens.
    - each prompt of a batch goes back by itself; the code takes the mode over the whole batch.
    - the history is that of the beams that are left, and is as long as the answer; the code keeps 512 whole states.
    - tokens that are no candidates stay 999 nats below in their own order; the code makes all of them equal.
    - what a return restores is the cache; the code runs prompt and answer again without one.
    - errors are errors; the code takes every one for "do not go back".
    - beams end by the rules of today's transformers, and penalty 0 with threshold None is its beam search to the bit.

    As in the code every token is open in the step after a return, without penalties, and the pairs of a beam and a
    token that were taken there before get the lowest logit; nothing goes back to a token before the answer's eleventh.
    Methods that hold the prompt's other runs against it cannot go back: with them a return is an error of theirs.
    Set threshold to None beside them.
    """

    name: ClassVar[str] = "opera"
    requires: ClassVar[tuple[Lever, ...]] = ("logits", "loop")
    paper: ClassVar[str] = "arXiv 2311.17911"
    config_class: ClassVar[type[MethodConfig]] = OPERAConfig
    least_beams: ClassVar[int] = 2

    config: OPERAConfig

    def install(self, model: PreTrainedModel, stack: HookStack) -> None:
        """See `Method`."""
        tap_attention(model, stack)
        super().install(model, stack)

    def begin(self, call: GenerateCall) -> None:
        """See `LogitsMethod`; brings the loop.

        Raises:
            UnsupportedGenerationError: without beams, or for what a loop of beams cannot do.
        """
        beams = call.setting("num_beams") or 1
        if beams < self.least_beams:
            raise UnsupportedGenerationError(
                f"opera searches with beams: got num_beams={beams}; expected at least {self.least_beams}. Call "
                "`generate` with num_beams=5, as published."
            )
        obstacle = why_not_searched(call)
        if obstacle is not None:
            raise UnsupportedGenerationError(
                f"opera cannot search so: got {obstacle}; expected beam search of ids, without sampling, that returns "
                f"tokens. Leave {obstacle} out."
            )
        call.arguments["disable_compile"] = True  # a compiled step would not go through our attention
        config, image = self.config, image_tokens(call.model, call.model_inputs)
        settings = OverTrust(
            config.penalty, config.scale, config.candidates, config.threshold, config.compat == "official"
        )
        call.arguments["custom_generate"] = OverTrustLoop(settings, image, last_block_reader(call.model))
