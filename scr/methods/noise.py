"""Randomness of the controls: keyed by the image itself, the same at any batch size and in any order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

_PARTS = 8  # averages that make up an image's digest
_STEP = 0.01  # of the features' root mean square


def image_generator(seed: int, features: Float[Tensor, "patches dim"]) -> torch.Generator:
    """A CPU generator keyed by (seed, digest of an image's own features).

    The digest is coarse on purpose: averages over many values, rounded to a hundredth of the features' scale. Encoding
    an image in another batch moves features by about 1e-7 of their scale in float32, which would change any exact
    digest; here the odds of a changed key are about 1 in 5,000.

    Args:
        seed: of the method's configuration.
        features: the image's tokens as the decoder gets them.
    """
    features = features.detach().double().cpu()
    scale = features.square().mean().sqrt().clamp(min=1e-12)
    parts = [part.mean() / scale for part in features.tensor_split(_PARTS, dim=1)]
    halves = [part.mean() / scale for part in features.tensor_split(_PARTS, dim=0)]
    digest = ",".join(str(round(float(value) / _STEP)) for value in (*parts, *halves))
    key = hashlib.sha256(f"{seed}:{tuple(features.shape)}:{digest}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(key[:8], "big"))


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
