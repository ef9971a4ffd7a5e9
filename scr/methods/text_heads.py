"""Heads that spread over text and not over the image: ONLY's second stream begins with what they give."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .._hooks import AttentionPlan, LayerAttention, Placed, beside_generate
from .attention import repeated


def text_heads(
    weights: Float[Tensor, "rows heads keys"], image: Bool[Tensor, "rows keys"], deviations: float
) -> Float[Tensor, "rows heads keys"]:
    """Attention without outliers, and zero for heads whose text-to-image entropy ratio is below the mean.

    Args:
        weights: of one token, 0 for keys that it does not see.
        image: which keys are image tokens; all others that it sees are text.
        deviations: attention above a head's mean and so many standard deviations is an outlier.
    """
    seen = weights > 0
    count = seen.sum(dim=-1, keepdim=True)
    mean = weights.sum(dim=-1, keepdim=True) / count
    deviation = (((weights - mean) ** 2 * seen).sum(dim=-1, keepdim=True) / count).sqrt()
    weights = weights.masked_fill(weights > mean + deviations * deviation, 0)
    of_image = weights * image[:, None]
    ratio = _entropy(weights - of_image) / _entropy(of_image).clamp(min=1e-6)
    return weights * (ratio >= ratio.mean(dim=1, keepdim=True))[..., None]


def _entropy(weights: Float[Tensor, "rows heads keys"]) -> Float[Tensor, "rows heads"]:
    return torch.special.entr(weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-30)).sum(dim=-1)


class TextHeads(AttentionPlan):
    """Takes part in a call's attention, and holds what the first block's text heads put out for the last token.

    Attributes:
        output: of the step that was just made, behind the output projection.
    """

    def __init__(self, image: Bool[Tensor, "prompts length"], deviations: float) -> None:
        """Read nothing yet; `image` says which of the prompts' tokens are image tokens, on the CPU."""
        self._image, self._deviations = Placed(image), deviations
        self.output: Float[Tensor, "rows dim"]

    def attend(self, attention: LayerAttention) -> None:
        """See `AttentionPlan`; changes nothing."""
        if attention.layer:
            return
        attention.require_all_heads()
        (image,) = self._image.on(attention.device)
        weights = attention.weights(attention.last_queries())[:, :, 0]
        kept = text_heads(weights, attention.columns(repeated(attention, image)), self._deviations)
        mixed = attention.mixed(kept[:, :, None]).to(attention.inputs.query.dtype)
        with beside_generate():
            self.output = attention.inputs.module.o_proj(mixed.flatten(1))
