"""How an image is corrupted: the noisy branch of contrastive decoding. Pure, seeded, the same at any batch size.

    >>> noisy = perturb_inputs(model, inputs, get_perturbation("gaussian", image_keep=0.3))

Pixels come normalised by the processor, so that their mean is near 0, their variance near 1, and 0 is no information.
What is drawn is drawn on the CPU by a generator of its own per image, keyed by (seed, digest of the image's pixels):
neither the batch, nor the order, nor the process, nor torch's global seed has a part in it. On families whose pixels do
not tell which tiles belong to one image, each tile is keyed by itself (`ModelFamily.map_pixels`).
"""

from __future__ import annotations

import functools
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ._hooks import PIXELS, find_family, image_digest, pixel_digests, unwrap
from .errors import ConfigError
from .fields import Count, Index, Share
from .kinds import Between, ChosenBy
from .variants import Variant, choose

_STEPS = 1000  # of VCD's diffusion schedule


@dataclass(frozen=True, kw_only=True)
class Perturbation(Variant, ABC):
    """One way to corrupt an image.

    Attributes:
        seed: of the noise; with the digest of an image's pixels it decides what is drawn for that image.
    """

    acts_on: ClassVar[Literal["pixels", "features"]] = "pixels"
    """Normalised pixels, or the features that the projector makes of them: then no second vision pass is needed."""
    seed: Index = 0

    @abstractmethod
    def apply(self, values: Float[Tensor, "..."], generator: torch.Generator) -> Float[Tensor, "..."]:
        """Corrupt one image.

        Args:
            values: its normalised pixels (tiles, 3, height, width), or its features (tokens, dim): see `acts_on`.
            generator: on the CPU; see `noise_generator`.

        Returns:
            The same shape, dtype and device, computed in float32 or better. `values` stays as it was.
        """


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Perturbation):
    """`x' = √k·x + √(1−k)·ε` with `ε ~ N(0, I)`: SEED (arXiv 2507.04680), where k is called α.

    Attributes:
        image_keep: k, the share of the image in the variance; at 1 nothing changes.
    """

    name: ClassVar[str] = "gaussian"
    image_keep: Share = 0.3

    def apply(self, values: Float[Tensor, "..."], generator: torch.Generator) -> Float[Tensor, "..."]:
        """See `Perturbation.apply`."""
        return _noised(values, self.image_keep, 1.0, generator)


@dataclass(frozen=True, kw_only=True)
class DiffusionNoise(Perturbation):
    """`x' = √ᾱ_t·x + √(1−ᾱ_t)·ε`, with the ᾱ of `diffusion_schedule`: VCD (arXiv 2311.16922).

    Attributes:
        noise_step: t, an index from 0 to 999; no step is without noise.
    """

    name: ClassVar[str] = "diffusion"
    noise_step: Annotated[int, Between(0, _STEPS - 1)] = 500

    def apply(self, values: Float[Tensor, "..."], generator: torch.Generator) -> Float[Tensor, "..."]:
        """See `Perturbation.apply`."""
        return _noised(values, diffusion_schedule()[self.noise_step], 1.0, generator)


@dataclass(frozen=True, kw_only=True)
class PatchMask(Perturbation):
    """Squares of the image are set to 0, which is the mean of normalised pixels.

    Attributes:
        share: of a tile's squares, rounded to whole ones, drawn for each tile; 0 changes nothing, 1 leaves nothing.
        patch: side of a square, in pixels of the processed image. Those at the right and lower edge may be cut.
    """

    name: ClassVar[str] = "mask"
    share: Share = 0.5
    patch: Count = 14

    def apply(self, values: Float[Tensor, "..."], generator: torch.Generator) -> Float[Tensor, "..."]:
        """See `Perturbation.apply`."""
        tiles, (height, width) = len(values), values.shape[-2:]
        side = min(self.patch, max(height, width))
        rows, columns = math.ceil(height / side), math.ceil(width / side)
        order = torch.rand(tiles, rows * columns, generator=generator, dtype=torch.float32, device="cpu").argsort(dim=1)
        hidden = torch.zeros(tiles, rows * columns, dtype=torch.bool, device="cpu")
        hidden.scatter_(1, order[:, : round(self.share * rows * columns)], True)
        squares = hidden.reshape(tiles, rows, columns)
        pixels = squares.repeat_interleave(side, dim=1).repeat_interleave(side, dim=2)
        return values.masked_fill(pixels[:, None, :height, :width].to(values.device), 0)


@dataclass(frozen=True, kw_only=True)
class GaussianBlur(Perturbation):
    """Each pixel becomes a mean of its tile, with weights `exp(−d²/2σ²)` that sum to 1 at the edges too. No draw.

    Attributes:
        sigma: σ, in pixels of the processed image; at 0 nothing changes.
    """

    name: ClassVar[str] = "blur"
    sigma: Annotated[float, Between(0)] = 8.0

    def apply(self, values: Float[Tensor, "..."], generator: torch.Generator) -> Float[Tensor, "..."]:
        """See `Perturbation.apply`."""
        if self.sigma == 0:
            return values.clone()
        precise = _precise(values)
        height, width = (_blurring(size, self.sigma).to(precise) for size in values.shape[-2:])
        return (height @ precise @ width.T).to(values.dtype)


@dataclass(frozen=True, kw_only=True)
class BlankImage(Perturbation):
    """Every pixel is 0, the mean of normalised pixels. No draw."""

    name: ClassVar[str] = "blank"

    def apply(self, values: Float[Tensor, "..."], generator: torch.Generator) -> Float[Tensor, "..."]:
        """See `Perturbation.apply`."""
        return torch.zeros_like(values)


@dataclass(frozen=True, kw_only=True)
class FeatureNoise(Perturbation):
    """`f' = √k·f + √(1−k)·r·ε` on the projected features, where r is the root mean square of the image's own.

    SEED's formula at another place. Features are not normalised as pixels are, so r gives the noise their scale.

    Attributes:
        image_keep: k; at 1 nothing changes.
    """

    name: ClassVar[str] = "features"
    acts_on: ClassVar[Literal["pixels", "features"]] = "features"
    image_keep: Share = 0.3

    def apply(self, values: Float[Tensor, "..."], generator: torch.Generator) -> Float[Tensor, "..."]:
        """See `Perturbation.apply`."""
        return _noised(values, self.image_keep, _precise(values).square().mean().sqrt(), generator)


PERTURBATIONS: dict[str, type[Perturbation]] = {
    kind.name: kind for kind in (GaussianNoise, DiffusionNoise, PatchMask, GaussianBlur, BlankImage, FeatureNoise)
}


def get_perturbation(name: str, **settings: Any) -> Perturbation:
    """The perturbation called `name`; `get_perturbation(**p.to_dict())` equals p.

    Raises:
        ConfigError: for an unknown name or setting, or a value out of range.
    """
    return choose(PERTURBATIONS, "perturbation", name, settings)


NamedPerturbation = Annotated[Perturbation, ChosenBy(get_perturbation)]
"""A field that holds one, and is given as one, its name, or its name and settings."""


def perturb_inputs(model: Any, inputs: Mapping[str, Any], perturbation: Perturbation) -> dict[str, Any]:
    """What the processor returned, with every image and video corrupted in its pixels.

    Args:
        model: the model that `inputs` are for; only its configuration is read.
        inputs: the processor's; without images nothing changes.
        perturbation: one that acts on pixels.

    Returns:
        A new mapping with new pixels of the same shape and dtype; all else is the same object.

    Raises:
        ConfigError: for a perturbation of features.
        PromptLayoutError: for pixels that are not laid out as the model's processor does.
    """
    _check_acts_on(perturbation, "pixels", "perturb_features")
    model, family = unwrap(model)[0], find_family(unwrap(model)[0])

    def corrupt(image: Tensor) -> Tensor:
        return perturbation.apply(image, noise_generator(perturbation.seed, image_digest(image)))

    present = [name for name in PIXELS.values() if inputs.get(name) is not None]
    return {**inputs, **{name: family.map_pixels(model, inputs, corrupt, name) for name in present}}


def perturb_features(
    model: Any,
    inputs: Mapping[str, Any],
    features: Tensor | Sequence[Tensor],
    perturbation: Perturbation,
    modality: Literal["image", "video"] = "image",
) -> Tensor | Sequence[Tensor]:
    """Projected features of the clean images, each corrupted; the noise is keyed by the images' pixels.

    Args:
        model: the model.
        inputs: the processor's, with the pixels that `features` were made of.
        features: `pooler_output` of `get_image_features` or `get_video_features`; of a family whose model projects
            them later, what it projects.
        perturbation: one that acts on features.
        modality: whose features they are.

    Returns:
        New features in the same container, with the same shapes and dtype.

    Raises:
        ConfigError: for a perturbation of pixels, or features of another number of images than `inputs` has.
        PromptLayoutError: for pixels that are not laid out as the model's processor does.
    """
    _check_acts_on(perturbation, "features", "perturb_inputs")
    digests = image_digests(model, inputs, modality)
    model, met = unwrap(model)[0], 0

    def corrupt(tokens: Tensor) -> Tensor:
        nonlocal met
        met += 1
        if met > len(digests):
            return tokens
        return perturbation.apply(tokens, noise_generator(perturbation.seed, digests[met - 1]))

    noisy = find_family(model).map_features(model, features, corrupt)
    if met != len(digests):
        raise ConfigError(
            f"features of other images: got features of {met}; expected {len(digests)}, as many as the pixels have. "
            "Pass the inputs that the features were made of."
        )
    return noisy


def perturb_encoded(
    model: Any, inputs: Mapping[str, Any], encoded: Mapping[str, Any], perturbation: Perturbation
) -> dict[str, Any]:
    """Outputs of the vision tower, with every image's and video's features corrupted.

    Args:
        model: the model.
        inputs: the processor's, with the pixels that were encoded.
        encoded: `mm_encoder_outputs`, as `hooks.encode_images` returns them.
        perturbation: one that acts on features.

    Returns:
        New outputs, for `mm_encoder_outputs` of another forward.

    Raises:
        ConfigError, PromptLayoutError: as `perturb_features`.
    """
    noisy: dict[str, Any] = {}
    name = find_family(model).features
    for modality, output in encoded.items():

        def corrupt(features: Any, modality: Any = modality) -> Any:
            return perturb_features(model, inputs, features, perturbation, modality)

        changed = {name: corrupt(output[name])}
        if output.get("deepstack_features") is not None:  # levels that enter the decoder later
            changed["deepstack_features"] = [corrupt(level) for level in output.deepstack_features]
        noisy[modality] = type(output)(**{**output, **changed})
    return noisy


def image_digests(model: Any, inputs: Mapping[str, Any], modality: Literal["image", "video"] = "image") -> list[str]:
    """`image_digest` of every image, or video, in the order in which the model's family meets them.

    Raises:
        PromptLayoutError: for pixels that are not laid out as the model's processor does.
    """
    return pixel_digests(unwrap(model)[0], inputs, modality)


def noise_generator(seed: int, digest: str) -> torch.Generator:
    """A CPU generator keyed by (seed, digest of the image)."""
    key = hashlib.sha256(f"{seed}:{digest}".encode()).digest()
    return torch.Generator(device="cpu").manual_seed(int.from_bytes(key[:8], "big"))


@functools.lru_cache(maxsize=1)
def diffusion_schedule() -> tuple[float, ...]:
    """ᾱ of VCD's 1,000 steps: `β = σ(linspace(−6, 6))·(0.005 − 10⁻⁵) + 10⁻⁵`, `ᾱ_t = Π_{i≤t} (1 − β_i)`.

    √ᾱ is 0.863 at step 500 and 0.285 at the last. It is not DDPM's linear schedule.
    """
    betas = torch.linspace(-6, 6, _STEPS, dtype=torch.float64, device="cpu").sigmoid() * (0.005 - 1e-5) + 1e-5
    return tuple((1 - betas).cumprod(dim=0).tolist())


def _noised(values: Tensor, keep: float, spread: float | Tensor, generator: torch.Generator) -> Tensor:
    """`√keep·values + √(1−keep)·spread·ε`: the variance stays that of the values where `spread` is their deviation."""
    noise = torch.randn(values.shape, generator=generator, dtype=torch.float32, device="cpu").to(values.device)
    return (math.sqrt(keep) * _precise(values) + math.sqrt(1 - keep) * spread * noise).to(values.dtype)


def _precise(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _blurring(size: int, sigma: float) -> Float[Tensor, "size size"]:
    """The matrix that blurs a line of pixels; its rows sum to 1."""
    places = torch.arange(size, dtype=torch.float64, device="cpu")
    return torch.softmax(-(((places[:, None] - places) / sigma) ** 2) / 2, dim=1)


def _check_acts_on(perturbation: Perturbation, place: str, instead: str) -> None:
    if perturbation.acts_on != place:
        raise ConfigError(
            f"a perturbation of other values: got {perturbation.name!r}, which acts on {perturbation.acts_on}; "
            f"expected one that acts on {place}. Call {instead} for it."
        )
