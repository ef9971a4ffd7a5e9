"""Contrastive decoding as pure tensors: the contrast, when a token is plausible, and how strong to contrast.

    >>> strength = QuantileStrength(thresholds=calibrate_thresholds(seen)).start()
    >>> purified = contrast_logits(clean, noisy, strength(confidence(clean)))

`clean` is what the model says about the image, `noisy` what it says about the same prompt with the image corrupted
(`scr.perturb`). Sources: SEED (arXiv 2507.04680), whose β is `contrast` here; VCD (arXiv 2311.16922), whose α is
`contrast` and whose β is `plausibility`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .errors import ConfigError
from .fields import LARGEST, SOME, Factor, Number, Share, checked
from .kinds import Between, ChosenBy
from .variants import Variant, choose

Space = Literal["logits", "logprobs"]
Confidence = Literal["max_logprob", "entropy", "margin"]

STRENGTHS = (1.1, 0.8, 0.6, 0.4)
"""SEED's contrast from the least to the most confident quarter of tokens."""
Strengths = Annotated[tuple[Factor, ...], SOME]
QUANTILES = (0.25, 0.50, 0.75)
"""SEED's cuts between them."""

# Models ban tokens by −∞ or by their dtype's least number, of which float16's is the nearest to 0.
_BANNED = torch.finfo(torch.float16).min


def contrast_logits(
    clean: Float[Tensor, "*batch vocab"],
    noisy: Float[Tensor, "*batch vocab"],
    contrast: float | Float[Tensor, "*batch"],
    space: Space = "logits",
    *,
    plausibility: float = 0.0,
) -> Float[Tensor, "*batch vocab"]:
    """`(1 + contrast)·clean − contrast·noisy` (SEED, VCD), computed as `clean + contrast·(clean − noisy)`.

    So equal branches and a contrast of 0 return `clean` to the bit. A token that `clean` bans, by −∞ or by the least
    number of a dtype, gets −∞. One that only `noisy` bans keeps its clean value, since there is nothing to compare it
    with. No NaN arises.

    Args:
        clean: logits or log-probabilities with the image.
        noisy: the same with the corrupted image.
        contrast: from 0 to 1000; one number, or one per row.
        space: `"logits"`, or `"logprobs"`: the log-softmax of both is contrasted, and the result is normalised again,
            as beam search needs it. The softmax of the result is the same, if `noisy` bans nothing that `clean` allows.
        plausibility: tokens outside `plausible_tokens` of `clean` get −∞; 0 keeps all.

    Returns:
        Float32.

    Raises:
        ConfigError: for an unknown space, a value out of range, or shapes that do not fit.
    """
    checked("space", space, Space)
    if clean.shape != noisy.shape:
        raise ConfigError(
            f"branches do not fit: got shapes {tuple(clean.shape)} and {tuple(noisy.shape)}; expected equal ones. "
            "Give both branches the same rows."
        )
    rows = clean.shape[:-1]
    if isinstance(contrast, Tensor):
        if contrast.shape not in ((), rows):
            raise ConfigError(
                f"contrast does not fit the rows: got shape {tuple(contrast.shape)}; expected {tuple(rows)}. "
                "Give one number, or one per row."
            )
        contrast = contrast.to(clean.device, torch.float32)[..., None]
    else:
        contrast = checked("contrast", contrast, Factor)
    kept = plausible_tokens(clean, plausibility)
    clean, noisy = _with_infinity(clean), _with_infinity(noisy)
    if space == "logprobs":
        clean, noisy = clean.log_softmax(dim=-1), noisy.log_softmax(dim=-1)
    # Where one side is infinite, the difference would be so too, or no number.
    change = torch.where(clean.isfinite() & noisy.isfinite(), clean - noisy, 0)
    purified = (clean + contrast * change).masked_fill(~kept, -math.inf)
    # A row without any token would become NaN.
    return purified.log_softmax(dim=-1).masked_fill(~kept, -math.inf) if space == "logprobs" else purified


def fuse_logits(
    clean: Float[Tensor, "*batch vocab"],
    second: Float[Tensor, "*batch vocab"],
    agreement: float,
    added: float,
    contrast: float,
    *,
    plausibility: float = 0.0,
) -> Float[Tensor, "*batch vocab"]:
    """`clean + added·second` where the two distributions agree, else `(1 + contrast)·clean − contrast·second` (ONLY).

    So with both factors at 0 it is `clean` to the bit. What `clean` bans stays banned.

    Args:
        clean: logits or log-probabilities.
        second: logits of the other kind.
        agreement: rows agree whose probabilities differ by less in all, from 0 to 2.
        added: see above.
        contrast: likewise.
        plausibility: tokens outside `plausible_tokens` of `clean` get −∞; 0 keeps all.

    Returns:
        Float32.
    """
    kept, allowed = plausible_tokens(clean, plausibility), plausible_tokens(clean, 0)
    clean, second = (one.float().masked_fill(~allowed, -math.inf) for one in (clean, second))
    distance = (clean.softmax(dim=-1) - second.softmax(dim=-1)).abs().sum(dim=-1, keepdim=True)
    fused = torch.where(distance < agreement, clean + added * second, clean + contrast * (clean - second))
    return fused.masked_fill(~kept, -math.inf)


def growing_contrast(step: int, rate: float) -> float:
    """`(1 − g)/g` with `g = e^(−rate·step)`: what the image is forgotten by, the longer the text (M3ID, CRoPS).

    Args:
        step: tokens generated before, from 0 or from 1 as the source counts them.
        rate: λ ≥ 0; at 0 there is no contrast.

    Returns:
        At most `scr.fields.LARGEST`, where it would go on growing beyond use.
    """
    exponent = rate * step
    return min(math.expm1(exponent), LARGEST) if exponent < math.log(2 * LARGEST) else LARGEST


def plausible_tokens(clean: Float[Tensor, "*batch vocab"], plausibility: float) -> Bool[Tensor, "*batch vocab"]:
    """Which tokens have `p ≥ plausibility · max p` in the clean distribution, before any temperature (VCD's β).

    Args:
        clean: logits or log-probabilities with the image.
        plausibility: 0 keeps all that is not banned, 1 the most probable alone.

    Raises:
        ConfigError: if it is not in [0, 1].
    """
    plausibility = checked("plausibility", plausibility, Share)
    clean = _with_infinity(clean)
    cutoff = clean.amax(dim=-1, keepdim=True) + (math.log(plausibility) if plausibility else -math.inf)
    return (clean >= cutoff) & (clean > -math.inf)


def confidence(logits: Float[Tensor, "*batch vocab"], kind: Confidence = "max_logprob") -> Float[Tensor, "*batch"]:
    """How sure each row's distribution is; of every kind, higher is more confident.

    Args:
        logits: logits or log-probabilities; banned tokens have no part.
        kind: `"max_logprob"`, the highest log-probability, ≤ 0 (SEED's); `"entropy"`, the negative entropy
            `Σ p log p` in nats, ≤ 0; or `"margin"`, the highest probability less the second, in [0, 1].

    Returns:
        Float32, one number per row.

    Raises:
        ConfigError: for an unknown kind.
    """
    checked("confidence", kind, Confidence)
    logprobs = _with_infinity(logits).log_softmax(dim=-1)
    if kind == "max_logprob":
        return logprobs.amax(dim=-1)
    if kind == "entropy":
        return -torch.special.entr(logprobs.exp()).sum(dim=-1)
    first, second = logprobs.topk(2, dim=-1).values.exp().unbind(dim=-1)
    return first - second


def calibrate_thresholds(
    confidences: Sequence[float] | Float[Tensor, "..."], quantiles: Sequence[float] = QUANTILES
) -> tuple[float, ...]:
    """Quantiles of confidences seen on a validation split: the thresholds of `QuantileStrength`.

    Args:
        confidences: of one kind, in any order and shape.
        quantiles: in [0, 1].

    Raises:
        ConfigError: if there are none, or one is not finite, or a quantile is out of range.
    """
    for quantile in quantiles:
        checked("quantile", quantile, Share)
    seen = torch.as_tensor(confidences, dtype=torch.float64, device="cpu").flatten().sort().values
    if not len(seen) or not torch.isfinite(seen).all():
        raise ConfigError(
            f"confidences have no quantiles: got {len(seen)} values, {int((~torch.isfinite(seen)).sum())} of them not "
            "finite; expected at least one, all finite. Pass what `confidence` returned on the validation split."
        )
    # `torch.quantile` refuses more than 16 million values.
    places = [quantile * (len(seen) - 1) for quantile in quantiles]
    return tuple(
        float(torch.lerp(seen[math.floor(place)], seen[math.ceil(place)], place - math.floor(place)))
        for place in places
    )


StrengthFunction = Callable[[Float[Tensor, "..."]], Float[Tensor, "..."]]


@dataclass(frozen=True, kw_only=True)
class Strength(Variant, ABC):
    """How strong to contrast a token, given the confidence of the clean branch."""

    @abstractmethod
    def start(self) -> StrengthFunction:
        """A function of confidences for one call of `generate`; of all but the rolling one it has no memory.

        It takes a tensor of any shape, and returns the contrast of each in that shape, as float32.
        """


@dataclass(frozen=True, kw_only=True)
class FixedStrength(Strength):
    """The same for every token.

    Attributes:
        contrast: from 0 to 1000.
    """

    name: ClassVar[str] = "fixed"
    contrast: Factor = 0.6

    def start(self) -> StrengthFunction:
        """See `Strength.start`."""
        return lambda seen: torch.full_like(seen, self.contrast, dtype=torch.float32)


@dataclass(frozen=True, kw_only=True)
class QuantileStrength(Strength):
    """SEED's steps: the less confident, the stronger, at thresholds that were calibrated once.

    So a token's contrast does not depend on order, batch or process.

    Attributes:
        thresholds: ascending confidences, from `calibrate_thresholds`; one that equals a threshold is above it.
        strengths: one more than thresholds, from the least confident up.
    """

    name: ClassVar[str] = "quantile"
    thresholds: Annotated[tuple[Number, ...], SOME]
    strengths: Strengths = STRENGTHS

    def __post_init__(self) -> None:
        """Raise ConfigError for a value out of range."""
        super().__post_init__()
        if list(self.thresholds) != sorted(self.thresholds) or len(self.thresholds) != len(self.strengths) - 1:
            raise ConfigError(
                f"thresholds do not fit the strengths: got {self.thresholds} for {self.strengths}; expected "
                f"{len(self.strengths) - 1} in ascending order. Take those of `calibrate_thresholds`."
            )

    def start(self) -> StrengthFunction:
        """See `Strength.start`."""
        return lambda seen: _step(seen, self.thresholds, self.strengths)


@dataclass(frozen=True, kw_only=True)
class ContinuousStrength(Strength):
    """`maximum · σ(−confidence / temperature)`; log-probabilities, being ≤ 0, give half the maximum or more.

    Attributes:
        maximum: from 0 to 1000.
        temperature: τ > 0, in units of the confidence.
    """

    name: ClassVar[str] = "continuous"
    maximum: Factor = 1.1
    temperature: Annotated[float, Between(0, above=True)] = 1.0

    def start(self) -> StrengthFunction:
        """See `Strength.start`."""
        temperature = max(self.temperature, 1e-30)  # less is 0 in float32
        return lambda seen: self.maximum * torch.sigmoid(-seen.float() / temperature)


@dataclass(frozen=True, kw_only=True)
class RollingStrength(Strength):
    """SEED's steps at the quantiles of the last tokens: its training's way, which depends on what came before.

    Attributes:
        history: how many tokens are remembered.
        strengths: from the least confident up; the thresholds are the quantiles that cut equal shares.
        first: the contrast until as many tokens were seen as there are strengths.
    """

    name: ClassVar[str] = "rolling"
    unordered: ClassVar[str | None] = "quantile"
    history: int = 1000
    strengths: Strengths = STRENGTHS
    first: Factor = 0.6

    def __post_init__(self) -> None:
        """Raise ConfigError for a value out of range."""
        super().__post_init__()
        checked("history", self.history, Annotated[int, Between(len(self.strengths))])

    def start(self) -> RollingHistory:
        """An empty history."""
        return RollingHistory(self)


class RollingHistory:
    """The memory of `RollingStrength`, for a single stream of tokens. Not pure: every call is remembered."""

    def __init__(self, settings: RollingStrength) -> None:
        """Start with nothing seen."""
        self.settings = settings
        self.seen: deque[float] = deque(maxlen=settings.history)

    def __call__(self, confidence: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The contrast of the next token, by the tokens before it.

        Args:
            confidence: of one token, in any shape.

        Raises:
            ConfigError: for several tokens, which have no order, or a confidence that is not finite.
        """
        if confidence.numel() != 1 or not confidence.isfinite().all():
            raise ConfigError(
                f"a rolling history of several streams: got confidences of shape {tuple(confidence.shape)}; expected a "
                "single finite one. Use a batch of one without beams, or the 'quantile' schedule."
            )
        strength = self.strength(confidence)
        self.remember(confidence.flatten().tolist())
        return strength

    def strength(self, confidence: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The contrast of tokens, all by the same memory; nothing is remembered."""
        strengths, count = self.settings.strengths, len(self.settings.strengths)
        if len(self.seen) < count:
            return torch.full_like(confidence, self.settings.first, dtype=torch.float32)
        thresholds = calibrate_thresholds(list(self.seen), [cut / count for cut in range(1, count)])
        return _step(confidence, thresholds, strengths)

    def remember(self, confidences: Sequence[float]) -> None:
        """Add confidences in their order; the oldest are forgotten."""
        self.seen.extend(confidences)


STRENGTH_SCHEDULES: dict[str, type[Strength]] = {
    kind.name: kind for kind in (FixedStrength, QuantileStrength, ContinuousStrength, RollingStrength)
}


def get_strength(name: str, **settings: Any) -> Strength:
    """The strength schedule called `name`; `get_strength(**s.to_dict())` equals s.

    Raises:
        ConfigError: for an unknown name or setting, a value out of range, or `quantile` without thresholds.
    """
    return choose(STRENGTH_SCHEDULES, "strength schedule", name, settings)


NamedStrength = Annotated[Strength, ChosenBy(get_strength)]
"""A field that holds one, and is given as one, its name, or its name and settings."""


def _with_infinity(logits: Tensor) -> Float[Tensor, "*batch vocab"]:
    """Float32, with −∞ for banned tokens."""
    logits = logits.float()
    return logits.masked_fill(logits <= _BANNED, -math.inf)


def _step(seen: Tensor, thresholds: Sequence[float], strengths: Sequence[float]) -> Float[Tensor, "..."]:
    contrast = torch.full_like(seen, strengths[0], dtype=torch.float32)
    for threshold, strength in zip(thresholds, strengths[1:], strict=True):
        contrast.masked_fill_(seen >= threshold, strength)
    return contrast
