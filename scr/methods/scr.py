"""Spatial Credit Redistribution (arXiv 2602.22469): the configuration, and the method on a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from .._hooks import Diagnosis, ImagePatches, find_family
from ..kinds import Between
from .base import MethodConfig
from .depth import with_maps
from .heads import attention_of_sharpest
from .kept_maps import KeptMaps
from .spreading import SpreadingConfig, SpreadingMethod, SpreadingSession


@dataclass(frozen=True, kw_only=True, repr=False)
class SCRConfig(SpreadingConfig):
    """How to redistribute by the attention that a diagnostic pass reads (arXiv 2602.22469).

    Attributes:
        scale, num_sources, layers, connectivity, radius, include_border, selection, edit, seed, keep_traces: see
            `scr.methods.spreading.SpreadingConfig`.
        attention_layers: blocks whose attention is averaged; None takes the family's. Of a hybrid's, those that have
            attention maps: the traces say which.
        heads: per block, the share of heads that are averaged, rounded up: those whose own map over the image has the
            lowest entropy, image by image; ties go to the lower head. 1.0 averages all (the paper keeps 95 % of the
            gain at 0.2).
        source: `"attention"`, or `"random"`: sources drawn uniformly from the eligible patches (the paper's control).
        map_from: `"prompt"`: what the text after the image attends to. `"image"`: what the image's own last row of
            patches attends to. No question has a part in that, so that an image's map is kept, by the digest of its
            features and of all that comes before it, and the next question about it needs no diagnostic pass. The
            last row sees every patch that may be a source, border patches aside. The map is another one than the
            question's, and traces of a kept one have no `norm_ratio`; off by default.
    """

    example: ClassVar[Mapping[str, Any]] = {"scale": 1.6, "num_sources": 4}
    takes_settings: ClassVar[bool] = True
    later: ClassVar[tuple[str, ...]] = ("heads", "map_from")

    attention_layers: range | None = None
    heads: Annotated[float, Between(0, 1, above=True)] = 1.0
    source: Literal["attention", "random"] = "attention"
    map_from: Literal["prompt", "image"] = "prompt"


class SCR(SpreadingMethod):
    """Find what the text attends to in a diagnostic pass, and spread it over the neighbouring patches at prefill."""

    name: ClassVar[str] = "scr"
    config_class: ClassVar[type[MethodConfig]] = SCRConfig

    config: SCRConfig

    def __init__(self, model: PreTrainedModel, config: SCRConfig) -> None:
        """See `Method`."""
        super().__init__(model, config)
        self.attention_layers = with_maps("attention_layers", cast(range, self.config.attention_layers), model)
        self.reads_of = "image" if config.map_from == "image" else "text"
        self.reads_heads = config.heads < 1
        self.kept = KeptMaps()

    def published(self, model: PreTrainedModel) -> dict[str, range]:
        """See `SpreadingMethod`."""
        return {**super().published(model), "attention_layers": find_family(model).attention_layers}

    def diagnosed(self) -> dict[str, range]:
        """See `Method`."""
        return {"layers": self.layers, "attention_layers": cast(range, self.config.attention_layers)}

    def draws(self) -> bool:
        """See `SpreadingMethod`."""
        return super().draws() or self.config.source == "random"

    def open(
        self,
        images: Sequence[ImagePatches],
        embeds: Float[Tensor, "batch seq dim"],
        copies: int,
        digests: Callable[[], Mapping[tuple[int, int], str]],
    ) -> SCRSession:
        """Start one prefill. See `hooks.PrefillMethod`."""
        return SCRSession(self, images, embeds, self.generators(images, digests), copies)


class SCRSession(SpreadingSession):
    """SCR in one prefill."""

    def __init__(
        self,
        method: SCR,
        images: Sequence[ImagePatches],
        embeds: Float[Tensor, "batch seq dim"],
        generators: Sequence[torch.Generator],
        copies: int,
    ) -> None:
        """Start, and plan already where the maps of all images are known."""
        # Norms are compared after the last edited block that the diagnostic, which stops in its last one, completes.
        measured = min(method.layers[-1], method.attention_layers[-1] - 1)
        super().__init__(method, images, generators, copies, measured)
        self._method = method
        self._keys = method.kept.keys(images, embeds) if method.reads_of == "image" else []
        if self._keys and (known := method.kept.find(self._keys)) is not None:
            self.spread(known, 0.0)
            self.planned = True

    def observe(self, layer: int, hidden: Float[Tensor, "batch seq dim"]) -> None:
        """Note the images' norms without edits."""
        self.note_norms(layer, hidden)

    def plan(self, diagnosis: Diagnosis) -> None:
        """Take the maps, and spread by them."""
        layers, share = self._method.attention_layers, self._method.config.heads
        if self._method.reads_heads:
            maps = [attention_of_sharpest(one, share) for one in diagnosis.attention_by_head(self._images, layers)]
        else:
            maps = diagnosis.attention(self._images, layers)
        self.spread(self._method.kept.keep(self._keys, maps) if self._keys else maps, diagnosis.milliseconds)

    def ranked(self, index: int, attention: Float[Tensor, "patches"]) -> Float[Tensor, "patches"]:
        """The map, or for the random control numbers drawn for the image."""
        if self._method.config.source == "attention":
            return attention
        # The K highest of independent uniform numbers are K patches drawn uniformly without replacement.
        generator = self._generators[index]
        return torch.rand(len(attention), generator=generator, dtype=torch.float32, device="cpu")
