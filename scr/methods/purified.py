"""Purified contrastive decoding (SEED, arXiv 2507.04680) at inference: the configuration, the processor, the method."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel

from .._hooks import PIXELS, DoubledLoop, GenerateCall, encode_images, unwrap, why_not_doubled
from ..branch import Branch
from ..contrast import Confidence, FixedStrength, NamedStrength, Space, confidence, contrast_logits
from ..errors import ConfigError, UnsupportedGenerationError
from ..fields import Number, Share
from ..perturb import GaussianNoise, NamedPerturbation, perturb_encoded, perturb_inputs
from .base import Lever, MethodConfig
from .logits import ImageRowsProcessor, LogitsMethod

Engine = Literal["auto", "processor", "doubled"]

_SEED_NOISE, _SEED_STRENGTH = GaussianNoise(image_keep=0.3), FixedStrength(contrast=0.6)


@dataclass(frozen=True, kw_only=True, repr=False)
class ContrastConfig(MethodConfig):
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
        edited: whether methods that act on prefills, such as SCR, edit the noisy branch too.
        engine: `"processor"`, a forward of its own for the noisy branch; `"doubled"`, both branches in one forward,
            greedy and sampling only; `"auto"`, the second where it can. The answers are the same.
        contrast: short for `strength=FixedStrength(contrast=...)` (SEED's β, VCD's α); not kept.
    """

    perturbation: NamedPerturbation = _SEED_NOISE
    strength: NamedStrength = _SEED_STRENGTH
    plausibility: Share = 0.0
    confidence: Confidence = "max_logprob"
    space: Space = "logits"
    only_below: Number | None = None
    edited: bool = True
    engine: Engine = "auto"
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
    """SEED's values: `√k·x + √(1−k)·ε` with k = 0.3, a contrast of 0.6, no plausibility constraint.

    Attributes:
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


class PurifiedLogitsProcessor(ImageRowsProcessor):
    """`(1 + contrast)·clean − contrast·noisy`, where noisy is the same prompt with the image corrupted.

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
        self._config = config = config if config is not None else PurifiedConfig.from_dict(fields)
        model = unwrap(model)[0]
        super().__init__(model, inputs)
        self._strength = config.strength.start()
        if config.perturbation.acts_on == "pixels":
            self.branch = Branch(model, perturb_inputs(model, inputs, config.perturbation), config.edited)
        else:
            self.branch = Branch(
                model, inputs, config.edited, functools.partial(_with_noisy_features, model, config, encoded)
            )

    def change(
        self, input_ids: Int[Tensor, "rows length"], scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        """Purify.

        Raises:
            ConfigError: if the tokens do not go on from the inputs given, or from the step before.
        """
        config, sure = self._config, confidence(scores, self._config.confidence)
        unsure = torch.ones_like(sure, dtype=torch.bool) if config.only_below is None else sure < config.only_below
        if not unsure.any():
            return scores.float()
        noisy = self.branch.logits(input_ids).to(scores.device)
        strength = self._strength(sure)
        purified = contrast_logits(scores, noisy, strength, config.space, plausibility=config.plausibility)
        return torch.where(unsure[:, None], purified, scores.float())


def _with_noisy_features(
    model: PreTrainedModel, config: ContrastConfig, encoded: Mapping[str, Any] | None, inputs: dict[str, Any]
) -> dict[str, Any]:
    own = encode_images(model, inputs, encoded)
    noisy = perturb_encoded(model, inputs, own["mm_encoder_outputs"], config.perturbation)
    return {**own, "mm_encoder_outputs": noisy}


class Purified(LogitsMethod):
    """Contrast the image with a noised one at every `generate`."""

    name: ClassVar[str] = "purified"
    requires: ClassVar[tuple[Lever, ...]] = ("logits", "loop")
    paper: ClassVar[str] = "arXiv 2507.04680"
    config_class: ClassVar[type[MethodConfig]] = PurifiedConfig

    config: ContrastConfig

    def begin(self, call: GenerateCall) -> LogitsProcessor:
        """See `LogitsMethod`; brings the doubled loop where it serves."""
        cache = call.arguments.get("past_key_values")
        if cache is not None and cache.get_seq_length():
            raise UnsupportedGenerationError(
                f"{self.name} cannot go on from a cache, which holds no noisy branch: got past_key_values of "
                f"{cache.get_seq_length()} tokens; expected none. Give the whole conversation with all its images."
            )
        processor = PurifiedLogitsProcessor(call.model, call.model_inputs, self.config, encoded=self._encoded(call))
        obstacle = why_not_doubled(call)
        if self.config.engine == "doubled" and obstacle is not None:
            raise UnsupportedGenerationError(
                f"both branches cannot run in one forward: got {obstacle}; expected greedy decoding or sampling that "
                "returns tokens. Use engine='processor', or 'auto'."
            )
        # `only_below` is there to skip forwards of the noisy branch, which joined ones cannot.
        alone = self.config.engine == "auto" and self.config.only_below is not None
        if self.config.engine != "processor" and obstacle is None and not alone:
            call.arguments["custom_generate"] = DoubledLoop(processor.branch, call.arguments.get("streamer"))
        return processor

    def _encoded(self, call: GenerateCall) -> Mapping[str, Any] | None:
        """Where features are corrupted: run the vision tower once, for `generate` and for the noisy branch."""
        if self.config.perturbation.acts_on == "features" and "mm_encoder_outputs" not in call.arguments:
            call.arguments.update(mm_encoder_outputs=encode_images(call.model, call.model_inputs)["mm_encoder_outputs"])
            for name in PIXELS.values():
                call.arguments.pop(name, None)
        encoded = call.arguments.get("mm_encoder_outputs")
        # `generate` repeats the features of its own for beams, in place.
        return None if encoded is None else {name: type(output)(**output) for name, output in encoded.items()}
