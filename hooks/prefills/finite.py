"""Pictures that hold no numbers are named, not redistributed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..encoding import PIXELS
from ..errors import NotFiniteError
from ..families import ImagePatches


def require_finite_pixels(inputs: Mapping[str, Any]) -> None:
    """Look at what a model's forward was given to see.

    Raises:
        NotFiniteError: for pixels that are NaN or infinite.
    """
    for name in PIXELS.values():
        # Of a sum, so that nothing of the pixels' size is made.
        if inputs.get(name) is not None and not inputs[name].sum(dtype=torch.float32).isfinite():
            raise NotFiniteError(
                f"{name} is not finite: got NaN or infinity; expected numbers, as the model's processor gives them. "
                "Look for the picture that has none."
            )


def require_finite_images(images: Sequence[ImagePatches], embeds: Float[Tensor, "batch seq dim"]) -> None:
    """Look at the decoder's input at every image; where attention is read, that is looked at: `Diagnosis.attention`.

    Raises:
        NotFiniteError: naming the first image that holds NaN.
    """
    for image in images:
        if not embeds[image.row, image.positions.to(embeds.device)].isfinite().all():
            raise NotFiniteError(
                f"image {image.index} of row {image.row} is not finite: got NaN; expected numbers. Look for NaN in its "
                "pixels and in the model's weights, or load the model in a wider number format."
            )
