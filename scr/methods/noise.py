"""Randomness of the controls: keyed by the image itself, the same at any batch size and in any order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def random_directions(
    dim: int, shares: Sequence[Tensor], generators: Sequence[torch.Generator]
) -> Float[Tensor, "tokens dim"]:
    """A random unit vector for every edited token; on the CPU.

    Args:
        dim: of the hidden states.
        shares: per image, the indices of its tokens among all edited ones.
        generators: per image; each draws only for its own tokens.
    """
    directions = torch.zeros(sum(map(len, shares)), dim, dtype=torch.float32, device="cpu")
    for share, generator in zip(shares, generators, strict=True):
        drawn = torch.randn(len(share), dim, generator=generator, dtype=torch.float32, device="cpu")
        directions[share] = torch.nn.functional.normalize(drawn, dim=-1)
    return directions


def with_norms_of(
    edits: Float[Tensor, "tokens dim"], directions: Float[Tensor, "tokens dim"]
) -> Float[Tensor, "tokens dim"]:
    """Each direction with the L2 norm of the edit that the real method would have made there."""
    lengths = torch.linalg.vector_norm(edits.float(), dim=-1, keepdim=True)
    return (directions.to(edits.device) * lengths).to(edits.dtype)
