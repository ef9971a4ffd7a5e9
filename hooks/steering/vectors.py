"""Turning states towards a vector, as pure tensors."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize


def turn(
    hidden: Float[Tensor, "*tokens dim"],
    vector: Float[Tensor, "*#tokens dim"],
    strength: float | Float[Tensor, "*#tokens 1"],
) -> Float[Tensor, "*tokens dim"]:
    """`normalise(x̂ + strength · v̂) · ‖x‖`: directions are added, lengths stay.

    Args:
        hidden: the states x.
        vector: v, of any length; 0 turns nothing.
        strength: of v's direction beside x's, one number or one per token.

    Returns:
        Float32. At strength 0 the states to about 1e-7 of their length, since they were divided by it.
    """
    precise = hidden.float()
    turned = normalize(normalize(precise, dim=-1) + strength * normalize(vector.float(), dim=-1), dim=-1)
    return turned * precise.norm(dim=-1, keepdim=True)
