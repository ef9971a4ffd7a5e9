"""Covering what stands out in an image, or all but that, by a map of how salient each of its patches is.

>>> covered = perturb_inputs(model, inputs, CoverSalient(saliency=tower_saliency(model), covered=0.4))
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .._hooks import find_family, image_digest, unwrap
from ..errors import ConfigError
from ..fields import Share
from ..perturb import BlankImage, NamedPerturbation, Perturbation

Saliency = Callable[[Float[Tensor, "tiles 3 height width"]], Float[Tensor, "tiles rows columns"]]
"""One image's normalised pixels → how salient each patch of each tile is; any grid of numbers that are not below 0."""

_BLANK = BlankImage()


def tower_saliency(model: Any) -> Saliency:
    """The model's own vision tower as a saliency map: see `ModelFamily.salience`.

    Args:
        model: a model of a supported family, or a wrapper around one.
    """
    model = unwrap(model)[0]
    return functools.partial(find_family(model).salience, model)


def once_per_image(saliency: Saliency) -> Saliency:
    """The same map, made once for each image, for as long as what is returned lives."""
    known: dict[str, Tensor] = {}

    def remembered(image: Float[Tensor, "tiles 3 height width"]) -> Float[Tensor, "tiles rows columns"]:
        digest = image_digest(image)
        if digest not in known:
            known[digest] = saliency(image)
        return known[digest]

    return remembered


@dataclass(frozen=True, kw_only=True)
class CoverSalient(Perturbation):
    """The most salient patches of each tile, as few as make up a share of its map, are filled with something else.

    It is made by methods, which know the map, and has no name in `PERTURBATIONS`.

    Attributes:
        saliency: a `Saliency`.
        covered: the share of the map; at 0 nothing is salient, at 1 all that is above 0.
        outside: whether all other patches are covered, and the salient ones stay.
        fill: what the covered pixels would be in an image perturbed as a whole.
    """

    name: ClassVar[str] = "salient"
    saliency: Callable
    covered: Share = 0.5
    outside: bool = False
    fill: NamedPerturbation = _BLANK

    def __post_init__(self) -> None:
        """Raise ConfigError for a value out of range, or a filler of features."""
        super().__post_init__()
        if self.fill.acts_on != "pixels":
            raise ConfigError(
                f"fill of other values: got {self.fill.name!r}, which acts on {self.fill.acts_on}; expected a "
                "perturbation of pixels. Choose 'blank' or 'blur'."
            )

    def apply(self, values: Float[Tensor, "..."], generator: torch.Generator) -> Float[Tensor, "..."]:
        """See `Perturbation.apply`; an image of NaN stays as it is, and its logits are named."""
        if not values.isfinite().all():
            return values.clone()
        salient = most_salient(_checked(self.saliency(values), len(values)), self.covered)
        height, width = values.shape[-2:]
        rows, columns = salient.shape[-2:]
        row_of = torch.arange(height, device=salient.device) * rows // height
        column_of = torch.arange(width, device=salient.device) * columns // width
        hidden = (salient ^ self.outside)[:, None, row_of[:, None], column_of]
        return torch.where(hidden.to(values.device), self.fill.apply(values, generator), values)


def most_salient(maps: Float[Tensor, "tiles rows columns"], share: float) -> Bool[Tensor, "tiles rows columns"]:
    """The smallest set of each tile's patches that makes up at least `share` of its map; of equals the first."""
    values, order = maps.double().flatten(1).sort(dim=1, descending=True, stable=True)
    reached = values.cumsum(dim=1)
    # A patch is in where those before it do not yet make up the share.
    chosen = torch.nn.functional.pad(reached, (1, -1)) < share * reached[:, -1:]
    return torch.zeros_like(chosen).scatter(1, order, chosen).reshape(maps.shape)


def _checked(maps: Any, tiles: int) -> Float[Tensor, "tiles rows columns"]:
    fits = isinstance(maps, Tensor) and maps.ndim == 3 and len(maps) == tiles and maps.numel() > 0
    if not fits or not maps.isfinite().all() or (maps < 0).any():
        got = f"shape {tuple(maps.shape)}" if isinstance(maps, Tensor) else type(maps).__name__
        least = f" with a least value of {float(maps.min()):g}" if fits else ""
        raise ConfigError(
            f"no saliency map: got {got}{least}; expected a tensor ({tiles}, rows, columns) of finite numbers ≥ 0. "
            "Return one row of the first axis for each tile of the image that is given."
        )
    return cast(Tensor, maps)
