"""Purified contrastive decoding (SEED, arXiv 2507.04680) at inference: the configuration, the processor, the method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._hooks import PIXELS, GenerateCall
from ..branches.branch import Branch
from ..branches.running import RunningBranch
from ..contrast import Confidence, FixedStrength, NamedStrength, Space, confidence, contrast_logits
from ..errors import ConfigError
from ..fields import Number, Share
from ..perturb import GaussianNoise, NamedPerturbation
from .base import MethodConfig
from .branching import BranchesConfig, BranchesMethod, BranchesProcessor, Combine, Others

_SEED_NOISE, _SEED_STRENGTH = GaussianNoise(image_keep=0.3), FixedStrength(contrast=0.6)


@dataclass(frozen=True, kw_only=True, repr=False)
class ContrastConfig(BranchesConfig):
    """How to contrast the image with a corrupted one; what `purified` and `vcd` have in common.

    `perturbation` and `strength` are objects of `scr.perturb` and `scr.contrast`, or their names, or what their
    `to_dict` returns.

    Attributes:
        perturbation: how images are corrupted.
        strength: how strongly a token is contrasted, by the confidence of the clean branch.
        plausibility: tokens whose clean probability is below this share of the highest are banned (VCD's β); 0: none.
        confidence: its kind; see `scr.contrast.confidence`.
        space: what is contrasted, `"logits"` or `"logprobs"`; see `scr.contrast.contrast_logits`.
        only_below: contrast only tokens of a lower confidence; a step with none of them needs no noisy forward.
        edited, engine: see `BranchesConfig`.
        contrast: short for `strength=FixedStrength(contrast=...)` (SEED's β, VCD's α); not kept.
    """

    perturbation: NamedPerturbation = _SEED_NOISE
    strength: NamedStrength = _SEED_STRENGTH
    plausibility: Share = 0.0
    confidence: Confidence = "max_logprob"
    space: Space = "logits"
    only_below: Number | None = None
    contrast: InitVar[float | None] = None

    def __post_init__(self, contrast: float | None) -> None:
        """Raise ConfigError for a value out of range."""
        super().__post_init__()
        if contrast is not None:
            self._fill_in("strength", "contrast", FixedStrength(contrast=contrast))

    def _fill_in(self, name: str, short: str, value: Any) -> None:
        """Set a field from its short form, unless both are given."""
        if getattr(self, name) != getattr(type(self), name):
            raise ConfigError(
                f"{short} and {name}: got both; expected one of them, since {short} sets {name}. Leave one out."
            )
        object.__setattr__(self, name, value)


@dataclass(frozen=True, kw_only=True, repr=False)
class PurifiedConfig(ContrastConfig):
    """SEED's values (arXiv 2507.04680): `√k·x + √(1−k)·ε` with k = 0.3, a contrast of 0.6, no plausibility constraint.

    Attributes:
        perturbation, strength, plausibility, confidence, space, only_below, contrast, edited, engine: see
            `scr.methods.purified.ContrastConfig`.
        image_keep: short for `perturbation=GaussianNoise(image_keep=...)`, the k above (SEED's α); not kept.
    """

    symbols: ClassVar[Mapping[str, str]] = {
        "SEED's α": "image_keep",
        "SEED's k": "image_keep",
        "SEED's β": "contrast",
    }
    example: ClassVar[Mapping[str, Any]] = {"contrast": 2.0}

    image_keep: InitVar[float | None] = None

    def __post_init__(self, contrast: float | None, image_keep: float | None) -> None:
        """Raise ConfigError for a value out of range."""
        super().__post_init__(contrast)
        if image_keep is not None:
            self._fill_in("perturbation", "image_keep", GaussianNoise(image_keep=image_keep))


class PurifiedLogitsProcessor(BranchesProcessor):
    """`(1 + contrast)·clean − contrast·noisy` (SEED, arXiv 2507.04680); noisy is the prompt with its image corrupted.

        processor = scr.PurifiedLogitsProcessor(model, inputs)
        model.generate(**inputs, logits_processor=[processor])

    One processor serves one call of `generate`: greedy, sampling or beams, in batches. The noisy branch has a cache of
    its own. Under `scr.patch` both branches are edited, unless `edited` is False. What `generate` makes of its
    configuration, such as a repetition penalty, comes before it.

    Attributes:
        branch: the noisy one; `branch.forwards` counts its forwards.
    """

    def __init__(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        config: ContrastConfig | None = None,
        *,
        encoded: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        """Check everything; no forward runs yet.

        Args:
            model: a model of a supported family, or a wrapper around one.
            inputs: what `generate` is given: the processor's.
            config: `PurifiedConfig` or `VCDConfig`; by default SEED's values.
            encoded: `mm_encoder_outputs` of the inputs, if they are known: a perturbation of features then needs no
                second vision pass.
            **fields: of `PurifiedConfig`, in place of `config`.

        Raises:
            ConfigError: for inputs without an image, or a value out of range.
            UnsupportedModelError: for a model that no family answers for.
        """
        if all(inputs.get(name) is None for name in PIXELS.values()):
            raise ConfigError(
                f"no image to corrupt: got inputs {sorted(inputs)}; expected `pixel_values` or `pixel_values_videos`. "
                "Decode text-only prompts without this processor."
            )
        if config is not None and fields:
            raise ConfigError(
                f"a configuration and fields: got both, fields {sorted(fields)}; expected one of them. "
                "Set the fields in the configuration."
            )
        config = config if config is not None else PurifiedConfig.from_dict(fields)
        self.branch = RunningBranch(model, inputs, _noisy(config), encoded)
        super().__init__(model, inputs, [self.branch], _contrasting(config))


class Purified(BranchesMethod):
    """Contrast the image with a noised one at every `generate`."""

    name: ClassVar[str] = "purified"
    paper: ClassVar[str] = "arXiv 2507.04680"
    config_class: ClassVar[type[MethodConfig]] = PurifiedConfig

    config: ContrastConfig

    def branches(self, call: GenerateCall) -> Sequence[Branch]:
        """See `BranchesMethod`."""
        return [_noisy(self.config)]

    def combining(self, call: GenerateCall) -> Combine:
        """See `BranchesMethod`."""
        return _contrasting(self.config)

    def skips(self) -> bool:
        """See `BranchesMethod`."""
        return self.config.only_below is not None


def _noisy(config: ContrastConfig) -> Branch:
    return Branch(image=config.perturbation, edited=config.edited)


def _contrasting(config: ContrastConfig) -> Combine:
    strength = config.strength.start()

    def combine(clean: Tensor, others: Others, step: int) -> Tensor:
        sure = confidence(clean, config.confidence)
        unsure = torch.ones_like(sure, dtype=torch.bool) if config.only_below is None else sure < config.only_below
        if not unsure.any():
            return clean.float()
        noisy = others[0]
        purified = contrast_logits(clean, noisy, strength(sure), config.space, plausibility=config.plausibility)
        return torch.where(unsure[:, None], purified, clean.float())

    return combine
