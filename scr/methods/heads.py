"""Which attention heads vote: those that look at one place."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

_ROUNDING = 1e-9  # of a share times a count: 0.2 · 15 is 3.0000000000000004


def attention_of_sharpest(maps: Float[Tensor, "layers heads patches"], share: float) -> Float[Tensor, "patches"]:
    """The mean over layers of the `⌈share·heads⌉` heads of each whose own map has the lowest entropy.

    Args:
        maps: of one image, every head's attention to its patches.
        share: of the heads, above 0. Ties go to the lower head; one that does not look at the image at all comes last.
    """
    weights = maps.double()
    weights = weights / weights.sum(dim=-1, keepdim=True)
    entropy = torch.xlogy(weights, weights).sum(dim=-1).neg().nan_to_num(nan=math.inf)
    count = math.ceil(share * maps.shape[1] - _ROUNDING)
    sharpest = entropy.sort(dim=1, stable=True).indices[:, :count]
    return maps.gather(1, sharpest[:, :, None].expand(-1, -1, maps.shape[2])).mean(dim=(0, 1))
