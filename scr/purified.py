"""Purified contrastive decoding (SEED, arXiv 2507.04680) as a logits processor of `generate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from hooks import unwrap

from .branch import Branch
from .contrast import Confidence, FixedStrength, Space, Strength, confidence, contrast_logits
from .errors import ConfigError
from .perturb import GaussianNoise, Perturbation, perturb_inputs
from .variants import check_number


class PurifiedLogitsProcessor(LogitsProcessor):
    """`(1 + contrast)·clean − contrast·noisy`, where noisy is the same prompt with the image corrupted.

        processor = scr.PurifiedLogitsProcessor(model, inputs)
        model.generate(**inputs, logits_processor=[processor])

    One processor serves one call of `generate`: greedy, sampling or beams, in batches. The noisy branch has a cache of
    its own. Under `scr.patch` both branches are edited, unless `edited` is False.
    """

    def __init__(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        *,
        perturbation: Perturbation | None = None,
        strength: Strength | None = None,
        kind: Confidence = "max_logprob",
        space: Space = "logits",
        plausibility: float = 0.0,
        only_below: float | None = None,
        edited: bool = True,
    ) -> None:
        """Corrupt the images; no forward runs yet.

        Args:
            model: a model of a supported family, or a wrapper around one.
            inputs: what `generate` is given: the processor's.
            perturbation: how images are corrupted; by default SEED's noise, `GaussianNoise(image_keep=0.3)`.
            strength: how strong to contrast; by default `FixedStrength(contrast=0.6)`.
            kind: of confidence; see `scr.contrast.confidence`.
            space: see `scr.contrast.contrast_logits`.
            plausibility: likewise.
            only_below: purify only tokens of a lower confidence; a step with none of them needs no noisy forward.
            edited: whether methods that act on prefills, such as SCR, edit the noisy branch too.

        Raises:
            ConfigError: for inputs without an image, or a value out of range.
            UnsupportedModelError: for a model that no family answers for.
        """
        if all(inputs.get(name) is None for name in ("pixel_values", "pixel_values_videos")):
            raise ConfigError(
                f"no image to corrupt: got inputs {sorted(inputs)}; expected `pixel_values` or `pixel_values_videos`. "
                "Decode text-only prompts without this processor."
            )
        check_number("plausibility", plausibility, high=1)
        if only_below is not None:
            check_number("only_below", only_below, low=-float("inf"))
        noisy = perturb_inputs(unwrap(model)[0], inputs, perturbation or GaussianNoise())
        self.branch = Branch(model, noisy, edited)
        self._strength = (strength or FixedStrength()).start()
        self._kind, self._space, self._plausibility, self._only_below = kind, space, plausibility, only_below

    def __call__(
        self, input_ids: Int[Tensor, "rows length"], scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        """Purify the scores of one step, logits or log-probabilities; called by `generate`.

        Raises:
            ConfigError: if the tokens do not go on from the inputs given, or from the step before.
        """
        sure = confidence(scores, self._kind)
        unsure = torch.ones_like(sure, dtype=torch.bool) if self._only_below is None else sure < self._only_below
        if not unsure.any():
            return scores
        noisy = self.branch.logits(input_ids).to(scores.device)
        purified = contrast_logits(scores, noisy, self._strength(sure), self._space, plausibility=self._plausibility)
        # Beam search adds up what it gets over the steps: so the scores keep the sum that they came with.
        total = (values.float().logsumexp(dim=-1, keepdim=True) for values in (scores, purified))
        purified = purified + (next(total) - next(total))
        return torch.where(unsure[:, None], purified, scores.float()).to(scores.dtype)
