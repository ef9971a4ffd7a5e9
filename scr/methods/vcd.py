"""Visual Contrastive Decoding (arXiv 2311.16922): contrast with a diffused image, among plausible tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from typing import ClassVar

from ..contrast import FixedStrength, NamedStrength
from ..fields import Share
from ..perturb import DiffusionNoise, NamedPerturbation
from .base import MethodConfig
from .purified import ContrastConfig, Purified

_NOISE, _STRENGTH = DiffusionNoise(noise_step=500), FixedStrength(contrast=1.0)


@dataclass(frozen=True, kw_only=True, repr=False)
class VCDConfig(ContrastConfig):
    """The values of VCD's code (arXiv 2311.16922): 500 steps of diffusion, contrast 1, plausibility 0.1.

    Greedy decoding takes the highest of the masked scores; VCD's own code contrasts when sampling alone.

    Attributes:
        perturbation, strength, plausibility, confidence, space, only_below, contrast, edited, engine: see
            `scr.methods.purified.ContrastConfig`.
        noise_step: a step of 1,000, from 0; short for `perturbation=DiffusionNoise(noise_step=...)`; not kept.
    """

    symbols: ClassVar[Mapping[str, str]] = {
        "VCD's α": "contrast",
        "VCD's β": "plausibility",
        "VCD's T": "noise_step",
        "VCD's cd_alpha": "contrast",
        "VCD's cd_beta": "plausibility",
    }

    perturbation: NamedPerturbation = _NOISE
    strength: NamedStrength = _STRENGTH
    plausibility: Share = 0.1
    noise_step: InitVar[int | None] = None

    def __post_init__(self, contrast: float | None, noise_step: int | None) -> None:
        """Raise ConfigError for a value out of range."""
        super().__post_init__(contrast)
        if noise_step is not None:
            self._fill_in("perturbation", "noise_step", DiffusionNoise(noise_step=noise_step))


class VCD(Purified):
    """Visual contrastive decoding: `purified` with VCD's noise, strength and constraint."""

    name: ClassVar[str] = "vcd"
    paper: ClassVar[str] = "arXiv 2311.16922"
    config_class: ClassVar[type[MethodConfig]] = VCDConfig
