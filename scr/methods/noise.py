"""Randomness of the controls: drawn for each image by a generator of its own, whatever else is in the batch.

The draws are the same to the bit; what they are added to is the model's, and differs as its number format rounds.
"""

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
    """Each direction with the L2 norm of the edit that the real method would have made there.

    The norm is that of the edit as the number format holds it, and whoever adds the result to a token rounds once more:
    in bfloat16 the change made has that norm within 2 % where it is a twentieth of the token's own or more, and loses
    it where it is below 1 in 250, which is the format's step. In float32 it has it to the fifth digit.
    """
    lengths = torch.linalg.vector_norm(edits.float(), dim=-1, keepdim=True)
    return (directions.to(edits.device) * lengths).to(edits.dtype)
