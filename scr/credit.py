"""Attention entropy, credit and its norm proxy: the paper's quantities as pure tensors (arXiv 2602.22469)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import ConfigError


def attention_entropy(attention: Float[Tensor, "..."], normalized: bool = False) -> Float[Tensor, ""]:
    """Entropy of the spatial attention map, `H(A) = −Σ aᵢ log aᵢ` with `a = A / ΣA`.

    Args:
        attention: non-negative weights of an image's patches, in any shape and of any sum above 0.
        normalized: divide by `log N`, the entropy of N equal weights, so that the result lies in [0, 1].

    Returns:
        A scalar: nats, or a fraction if `normalized`. A single patch has entropy 0 either way.

    Raises:
        ConfigError: if a weight is negative or not finite, or all are 0.
    """
    weights = attention.flatten().to(torch.float64)
    total = weights.sum()
    if not torch.isfinite(weights).all() or (weights < 0).any() or total <= 0:
        raise ConfigError(
            "weights have no entropy: got negative, non-finite or all-zero values; expected weights ≥ 0 with a sum "
            "above 0. Pass attention after its softmax."
        )
    share = weights / total
    entropy = -torch.xlogy(share, share).sum()
    if normalized:
        entropy = entropy / math.log(len(weights)) if len(weights) > 1 else torch.zeros_like(entropy)
    return entropy.clamp(min=0).float()


def credit_entropy(credit: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """Entropy, in nats, of the credit distribution `c / Σc` over patches. Raises as `attention_entropy` does."""
    return attention_entropy(credit)


def hidden_norms(hidden: Float[Tensor, "... dim"]) -> Float[Tensor, "..."]:
    """`‖hᵢ‖₂` of each patch, in float32: the paper's proxy of credit (paper: Pearson r = 0.72)."""
    return torch.linalg.vector_norm(hidden.float(), dim=-1)


def patch_credit(gradient: Float[Tensor, "... dim"], hidden: Float[Tensor, "... dim"]) -> Float[Tensor, "..."]:
    """Credit `cᵢ = ‖∂ log P(y|I,Q) / ∂hᵢ‖₂ · ‖hᵢ‖₂` of each patch after a block.

    Args:
        gradient: gradient of the first answer token's log-probability with respect to `hidden`.
        hidden: the block's output at the patches.
    """
    return hidden_norms(gradient) * hidden_norms(hidden)


def norm_credit_correlation(norms: Float[Tensor, "patches"], credit: Float[Tensor, "patches"]) -> Float[Tensor, ""]:
    """Pearson correlation of the patches' norms with their credit: how good a proxy the norm is.

    In [−1, 1]; NaN where either is the same for all patches, or not finite.
    """
    pair = torch.stack([norms.flatten(), credit.flatten()]).double()
    centered = pair - pair.mean(dim=1, keepdim=True)
    # What is left of equal numbers is rounding, and must not count as a spread.
    spread = torch.linalg.vector_norm(centered, dim=1)
    spread = torch.where(spread > 1e-7 * torch.linalg.vector_norm(pair, dim=1), spread, torch.nan)
    return ((centered[0] * centered[1]).sum() / spread.prod()).clamp(-1, 1).float()
