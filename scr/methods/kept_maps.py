"""Attention maps that depend on no question, kept for the next one about the same image."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from .._hooks import ImagePatches

_MOST = 256
"""Maps that are kept, the last that were used: a map of 576 patches takes 2 KB."""


class KeptMaps:
    """Maps by what they are made of: the features of the image, and all that comes before it in its row."""

    def __init__(self) -> None:
        """Start with none."""
        self._maps: dict[str, Tensor] = {}

    def keys(self, images: Sequence[ImagePatches], embeds: Float[Tensor, "batch seq dim"]) -> list[str]:
        """Of each image the digest of the decoder's inputs up to its last token, to the bit; none in a later turn.

        A vision tower may round otherwise in another batch: then the map is made once more.
        """
        found = []
        for image in images:
            if image.before is None:
                return []
            tokens = torch.cat([image.before, image.positions]).to(embeds.device)
            states = embeds[image.row, tokens].detach().cpu().contiguous().view(torch.uint8)
            found.append(f"{image.grids}:{hashlib.sha256(states.numpy().data).hexdigest()}")
        return found

    def find(self, keys: Sequence[str]) -> list[Tensor] | None:
        """The maps of these keys, or None if one of them is missing."""
        found = [self._maps.get(key) for key in keys]
        known = [one for one in found if one is not None]
        return self.keep(keys, known) if len(known) == len(found) else None

    def keep(self, keys: Sequence[str], maps: Sequence[Tensor]) -> list[Tensor]:
        """Keep maps as the last used; where one of a key was kept before, that one goes on."""
        kept = []
        for key, one in zip(keys, maps, strict=True):
            one = self._maps.pop(key, one)
            self._maps[key] = one
            kept.append(one)
        while len(self._maps) > _MOST:
            self._maps.pop(next(iter(self._maps)), None)
        return kept
