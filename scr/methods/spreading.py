"""What redistribution is, whoever says where: sources and neighbours from maps, edits of a prefill, traces."""

from __future__ import annotations

import functools
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self, cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from .._hooks import ImagePatches, PatchGrid, Placed, PrefillSession, edit_tokens, find_family, hidden_of
from ..credit import attention_entropy, hidden_norms
from ..errors import NotFiniteError
from ..fields import Count, Index
from ..perturb import noise_generator
from ..redistribution import (
    Connectivity,
    RedistributionPlan,
    Scale,
    Selection,
    give,
    plan_redistribution,
    receive,
)
from .activations import ActivationsMethod
from .base import MethodConfig
from .depth import within
from .noise import random_directions, with_norms_of
from .trace import Trace


@dataclass(frozen=True, kw_only=True, repr=False)
class SpreadingConfig(MethodConfig):
    """How to redistribute, wherever the maps are from. Every decision that the paper leaves open is a field.

    Attributes:
        scale: λ of the paper, from 1 to 1000. At 1.0 the maps are made, nothing is edited, and outputs equal the
            unpatched model's.
        num_sources: K of the paper, sources per image; capped at the eligible patches.
        layers: decoder blocks whose output is edited; None takes the family's published range.
        connectivity: 8 or 4 neighbours.
        radius: reach of a neighbourhood, in patches.
        include_border: whether border patches may be sources.
        selection: `"top_k"`, or `"greedy"`: pass over candidates that are neighbours already.
        edit: `"redistribute"`, or `"noise"`: at the same positions, a random direction with each edit's own L2 norm,
            as far as the model's number format tells: see `scr.methods.noise`.
        seed: of what is drawn; the generator is keyed by (seed, digest of the image's pixels, or of the prompt's ids
            where features are given in place of pixels): the same alone and in any batch.
        keep_traces: how many of the last traces are kept.
    """

    symbols: ClassVar[Mapping[str, str]] = {"SCR's λ": "scale", "SCR's K": "num_sources"}

    scale: Scale = 1.10
    num_sources: Count = 32
    layers: range | None = None
    connectivity: Connectivity = 8
    radius: Count = 1
    include_border: bool = False
    selection: Selection = "top_k"
    edit: Literal["redistribute", "noise"] = "redistribute"
    seed: Index = 0
    keep_traces: Index = 16

    def resolve(self, num_layers: int, **published: range) -> Self:
        """The configuration with the published ranges filled in, checked against a model of `num_layers` blocks.

        They hold for models of 24 blocks and more; a smaller model takes their share of 32.
        """
        found = {name: within(name, getattr(self, name), one, num_layers) for name, one in published.items()}
        return replace(self, **cast(Any, found))

    def plan(self, attention: Float[Tensor, "patches"], grids: Sequence[PatchGrid]) -> RedistributionPlan:
        """Sources and neighbours by an image's flat map over its grids."""
        parts = attention.split([grid.height * grid.width for grid in grids])
        return plan_redistribution(
            [part.reshape(*grid) for part, grid in zip(parts, grids, strict=True)],
            num_sources=self.num_sources,
            connectivity=self.connectivity,
            radius=self.radius,
            include_border=self.include_border,
            selection=self.selection,
        )


class SpreadingMethod(ActivationsMethod):
    """Spread what text attends to over the neighbouring patches at prefill; a subclass says where the maps are from."""

    paper: ClassVar[str] = "arXiv 2602.22469"

    config: SpreadingConfig
    traces: deque[Trace]

    def __init__(self, model: PreTrainedModel, config: SpreadingConfig) -> None:
        """See `Method`."""
        super().__init__(model, config)
        self.config = config.resolve(len(find_family(model).layers(model)), **self.published(model))
        # Never None in a resolved configuration.
        self.layers = cast(range, self.config.layers)
        self.traces = deque(maxlen=config.keep_traces)

    def published(self, model: PreTrainedModel) -> dict[str, range]:
        """Fields of the configuration that are ranges of blocks → what the model's family has for them."""
        return {"layers": find_family(model).edit_layers_of(model)}

    def diagnosed(self) -> dict[str, range]:
        """See `Method`."""
        return {"layers": self.layers}

    def draws(self) -> bool:
        """Whether it needs random numbers for an image."""
        return self.config.edit == "noise"

    def generators(
        self, images: Sequence[ImagePatches], digests: Callable[[], Mapping[tuple[int, int], str]]
    ) -> list[torch.Generator]:
        """One for each image, if it needs random numbers."""
        if not self.draws():
            return []
        keys = digests()
        return [noise_generator(self.config.seed, keys[one.row, one.index]) for one in images]


class SpreadingSession(PrefillSession):
    """Redistribution in one prefill, all rows and images of the batch at once."""

    def __init__(
        self,
        method: SpreadingMethod,
        images: Sequence[ImagePatches],
        generators: Sequence[torch.Generator],
        copies: int,
        measured: int,
    ) -> None:
        """Start with the images, and for random controls with a generator of each.

        Args:
            method: whose configuration and traces are used.
            images: of the prefill.
            generators: see `SpreadingMethod.generators`.
            copies: of each row in what is edited.
            measured: block after which the images' norms are taken, where it is one of those edited.
        """
        self._config, self._layers, self._traces = method.config, method.layers, method.traces
        self._images, self._copies, self._generators, self._measured = images, copies, generators, measured
        self._read = tuple(method.attention_layers)
        rows = torch.cat([torch.full_like(image.positions, image.row) for image in images])
        self._patches = Placed(rows, torch.cat([image.positions for image in images]))
        self._noise: dict[int, Tensor] = {}
        self._norms_before: Tensor | None = None
        self._norms_after: Tensor | None = None

    def note_norms(self, layer: int, hidden: Float[Tensor, "batch seq dim"]) -> None:
        """Note the images' norms without edits, for the traces to compare with."""
        if layer == self._measured and layer in self._layers:
            self._norms_before = self._norms(hidden)

    def spread(self, attention: Sequence[Float[Tensor, "patches"]], milliseconds: float) -> None:
        """Choose sources and neighbours of every image by its map, and lay them out over the batch.

        Args:
            attention: on the CPU, in the order of the images; one of zeros alone leaves its image as it is.
            milliseconds: that the maps took.
        """
        self._milliseconds, self._attention = milliseconds, attention
        if unseen := sum(not attention.any() for attention in self._attention):
            warnings.warn(
                f"{unseen} image(s) left as they are: no text attends to them at all, as when none comes after them or "
                "a sliding window has passed them. Put the question after the image, and nearer to it.",
                stacklevel=2,
            )
        self._plans = [self._plan_image(index) for index in range(len(self._images))]
        # One flat list of tokens for the whole batch: all sources first, then all neighbours.
        sources, neighbors, owners, first = [], [], [], 0
        for image, plan in zip(self._images, self._plans, strict=True):
            sources.append(_tokens(image, plan.sources))
            neighbors.append(_tokens(image, plan.neighbors))
            owners.append(plan.owners + first)
            first += len(plan.sources)
        # Every copy of a row gets the row's own edits: all copies of the sources, then all copies of the neighbours.
        copies = range(self._copies)
        self._num_sources = first * self._copies
        everyones = torch.cat([torch.cat(owners) + copy * first for copy in copies])
        rows, positions = torch.cat([*(sources * self._copies), *(neighbors * self._copies)], dim=1)
        self._num_edges = len(everyones)
        offsets = [
            torch.full((count,), copy, device="cpu")
            for count in (first, self._num_edges // self._copies)
            for copy in copies
        ]
        self._edits = Placed(rows * self._copies + torch.cat(offsets), positions, everyones)

    def _plan_image(self, index: int) -> RedistributionPlan:
        values = self._attention[index]
        if not values.any():
            nothing = torch.zeros(0, dtype=torch.long, device="cpu")
            return RedistributionPlan(nothing, nothing, nothing)
        values = self.ranked(index, values)
        return self._config.plan(values, self._images[index].grids)

    def ranked(self, index: int, attention: Float[Tensor, "patches"]) -> Float[Tensor, "patches"]:
        """By which an image's sources are chosen, the highest first: its map."""
        return attention

    def edit(self, layer: int, output: Any) -> Any:
        """Redistribute after block `layer`; at λ = 1 nothing is touched."""
        if layer in self._layers and self._config.scale != 1 and self._num_sources:
            rows, positions, _ = self._edits.on(hidden_of(output).device)
            output = edit_tokens(output, rows, positions, functools.partial(self._edited, layer))
        if self._norms_after is None and layer == self._measured and layer in self._layers:
            self._norms_after = self._norms(hidden_of(output)[:: self._copies])
        return output

    def _edited(self, layer: int, hidden: Float[Tensor, "tokens dim"]) -> Float[Tensor, "tokens dim"]:
        sources, neighbors = hidden[: self._num_sources], hidden[self._num_sources :]
        _, _, owners = self._edits.on(hidden.device)
        edited = torch.cat([give(sources, self._config.scale), receive(neighbors, sources[owners], self._config.scale)])
        if self._config.edit == "redistribute":
            return edited
        if layer not in self._noise:  # drawn once: without a cache the same edit is made at every step
            drawn = random_directions(hidden.shape[1], self._noise_shares(), self._generators)
            parts = drawn.split([self._num_sources // self._copies, self._num_edges // self._copies])
            self._noise[layer] = torch.cat([part.repeat(self._copies, 1) for part in parts])
        return hidden + with_norms_of(edited - hidden, self._noise[layer])

    def _noise_shares(self) -> list[Tensor]:
        """For each image, which of the edited tokens are its own, so that its generator alone decides their noise."""
        of_sources = torch.cat([torch.full_like(plan.sources, i) for i, plan in enumerate(self._plans)])
        of_edges = torch.cat([torch.full_like(plan.neighbors, i) for i, plan in enumerate(self._plans)])
        owner = torch.cat([of_sources, of_edges])
        return [(owner == index).nonzero().flatten() for index in range(len(self._plans))]

    def _norms(self, hidden: Tensor) -> Float[Tensor, "images"]:
        rows, positions = self._patches.on(hidden.device)
        norms = hidden_norms(hidden[rows, positions].detach())
        return torch.stack([part.sum() for part in norms.split([len(image.positions) for image in self._images])])

    def close(self) -> None:
        """Record what was done."""
        ratios: list[float | None] = [None] * len(self._images)
        if self._norms_after is not None:
            if self._norms_before is not None:
                ratios = (self._norms_after / self._norms_before).tolist()
            self._check_edits(self._norms_after.isfinite().tolist())
        # A bounded deque drops what it cannot keep; making those traces would be work for nothing.
        count, most = len(self._images), self._traces.maxlen
        first = 0 if most is None else max(0, count - most)
        for index in range(first, count):
            image, plan, attention = self._images[index], self._plans[index], self._attention[index]
            if not attention.any():
                continue
            self._traces.append(
                Trace(
                    row=image.row,
                    image=image.index,
                    grids=image.grids,
                    sources=plan.sources,
                    neighbors=plan.neighbors,
                    owners=plan.owners,
                    attention=attention,
                    entropy=float(attention_entropy(attention)),
                    norm_ratio=ratios[index],
                    milliseconds=self._milliseconds,
                    attention_layers=self._read,
                )
            )

    def _check_edits(self, finite: Sequence[bool]) -> None:
        for image, is_finite in zip(self._images, finite, strict=True):
            if not is_finite:
                raise NotFiniteError(
                    f"edits of image {image.index} in row {image.row} left the model's number format: got scale "
                    f"{self._config.scale}; expected finite hidden states. Take a smaller scale, or load the model in "
                    "bfloat16 or float32."
                )


def _tokens(image: ImagePatches, patches: Tensor) -> Tensor:
    """(row, position) of patches, stacked: shape (2, patches)."""
    return torch.stack([torch.full_like(patches, image.row), image.positions[patches]])
