"""Branches that see only the keys which the last token attends to least: the amateur of SID and of CRoPS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import PreTrainedModel

from .._hooks import AttentionPlan, LayerAttention, find_family
from ..errors import ConfigError, UnsupportedModelError


@dataclass(frozen=True, kw_only=True)
class LeastAttended:
    """From a block on, only the least attended of some keys stay visible; all other keys do.

    The keys are ranked for each row by the attention that the last token pays them at the block before, averaged over
    heads, and again at every step. A token always sees its own key. Of equally attended keys the first ones stay.

    Attributes:
        keys: `"image"`: the image's tokens; `"text"`: all others but the last, generated ones too.
        kept: how many stay, given how many there are and the step, which is 1 for the first token generated.
        first_layer: the first block that sees no others, from 1 on.
    """

    keys: Literal["image", "text"]
    kept: Callable[[int, int], int]
    first_layer: int

    def start(self, image: Bool[Tensor, "rows prompt"], real: Bool[Tensor, "rows prompt"]) -> AttentionPlan:
        """See `Visibility.start`."""
        return _Ranking(self, image & real if self.keys == "image" else real & ~image)


def require_block(model: PreTrainedModel, first_layer: int) -> None:
    """Refuse a model where `LeastAttended` cannot hide anything from some block on.

    Raises:
        ConfigError: if it has no such block.
        UnsupportedModelError: if blocks carry on what they have seen without attention.
    """
    blocks = len(find_family(model).layers(model))
    if first_layer >= blocks:
        raise ConfigError(
            f"first_layer leaves the model: got {first_layer}; expected an index below {blocks}, its number of blocks. "
            "Name an earlier block."
        )
    known = find_family(model).attention_modules(model)
    if others := [block for block in range(first_layer - 1, blocks) if block not in known]:
        raise UnsupportedModelError(
            f"blocks that no key can be hidden from: got {others} of {type(model).__name__}, which carry a state on in "
            f"place of attention maps; expected attention in every block from {first_layer - 1} on. Use a method that "
            "corrupts the image instead, such as 'vcd', or leaves it out, such as 'm3id'."
        )


class _Ranking(AttentionPlan):
    def __init__(self, settings: LeastAttended, ranked: Bool[Tensor, "rows prompt"]) -> None:
        self._settings, self._ranked = settings, ranked
        self._hidden: Bool[Tensor, "rows tokens"]

    def attend(self, attention: LayerAttention) -> None:
        if attention.layer == self._settings.first_layer - 1:
            self._rank(attention)
        elif attention.layer >= self._settings.first_layer and self._hidden.any():
            attention.hide(attention.columns(self._hidden))

    def _rank(self, attention: LayerAttention) -> None:
        weights = attention.weights(attention.last_queries())
        seen = attention.by_token(attention.mean_over_heads(weights)[:, 0])
        new = attention.tokens - self._ranked.shape[1]
        ranked = self._ranked.repeat_interleave(len(seen) // len(self._ranked), dim=0).to(seen.device)
        ranked = torch.nn.functional.pad(ranked, (0, new), value=self._settings.keys == "text")
        if self._settings.keys == "text":
            ranked[:, -1] = False
        # Ranks by attention; what is not ranked comes last.
        places = seen.masked_fill(~ranked, torch.inf).argsort(dim=1, stable=True).argsort(dim=1)
        kept = [self._settings.kept(count, new + 1) for count in ranked.sum(dim=1).tolist()]
        self._hidden = ranked & (places >= torch.tensor(kept, device=seen.device)[:, None])
