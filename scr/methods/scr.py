"""Spatial Credit Redistribution (arXiv 2602.22469): the configuration, and the method on a model."""

from __future__ import annotations

import functools
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from .._hooks import Diagnosis, ImagePatches, Placed, PrefillSession, edit_tokens, find_family, hidden_of
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
class SCRConfig(MethodConfig):
    """How to redistribute. Every decision that the paper leaves open is a field.

    Attributes:
        scale: λ of the paper, from 1 to 1000. At 1.0 the diagnostic runs, nothing is edited, and outputs equal the
            unpatched model's.
        num_sources: K of the paper, sources per image; capped at the eligible patches.
        layers: decoder blocks whose output is edited; None takes the family's published range.
        attention_layers: blocks whose attention is averaged; None takes the family's.
        connectivity: 8 or 4 neighbours.
        radius: reach of a neighbourhood, in patches.
        include_border: whether border patches may be sources.
        selection: `"top_k"`, or `"greedy"`: pass over candidates that are neighbours already.
        source: `"attention"`, or `"random"`: sources drawn uniformly from the eligible patches (the paper's control).
        edit: `"redistribute"`, or `"noise"`: at the same positions, a random direction with each edit's own L2 norm,
            as far as the model's number format tells: see `scr.methods.noise`.
        seed: of `source="random"` and `edit="noise"`; the generator is keyed by (seed, digest of the image's pixels, or
            of the prompt's ids where features are given in place of pixels): the same alone and in any batch.
        keep_traces: how many of the last traces are kept.
    """

    symbols: ClassVar[Mapping[str, str]] = {"SCR's λ": "scale", "SCR's K": "num_sources"}
    example: ClassVar[Mapping[str, Any]] = {"scale": 1.6, "num_sources": 4}
    takes_settings: ClassVar[bool] = True

    scale: Scale = 1.10
    num_sources: Count = 32
    layers: range | None = None
    attention_layers: range | None = None
    connectivity: Connectivity = 8
    radius: Count = 1
    include_border: bool = False
    selection: Selection = "top_k"
    source: Literal["attention", "random"] = "attention"
    edit: Literal["redistribute", "noise"] = "redistribute"
    seed: Index = 0
    keep_traces: Index = 16

    def resolve(self, layers: range, attention_layers: range, num_layers: int) -> SCRConfig:
        """The configuration with the published ranges filled in, checked against a model of `num_layers` blocks.

        They hold for models of 24 blocks and more; a smaller model takes their share of 32.
        """
        return replace(
            self,
            layers=within("layers", self.layers, layers, num_layers),
            attention_layers=within("attention_layers", self.attention_layers, attention_layers, num_layers),
        )


class SCR(ActivationsMethod):
    """Find what the text attends to in a diagnostic pass, and spread it over the neighbouring patches at prefill."""

    name: ClassVar[str] = "scr"
    paper: ClassVar[str] = "arXiv 2602.22469"
    config_class: ClassVar[type[MethodConfig]] = SCRConfig

    config: SCRConfig
    traces: deque[Trace]

    def __init__(self, model: PreTrainedModel, config: SCRConfig) -> None:
        """See `Method`."""
        super().__init__(model, config)
        family = find_family(model)
        self.config = config.resolve(family.edit_layers_of(model), family.attention_layers, len(family.layers(model)))
        # Never None in a resolved configuration.
        self.layers = cast(range, self.config.layers)
        self.attention_layers = cast(range, self.config.attention_layers)
        self.traces = deque(maxlen=config.keep_traces)

    def diagnosed(self) -> dict[str, range]:
        """See `Method`."""
        return {"layers": self.layers, "attention_layers": self.attention_layers}

    def open(
        self,
        images: Sequence[ImagePatches],
        embeds: Float[Tensor, "batch seq dim"],
        copies: int,
        digests: Callable[[], Mapping[tuple[int, int], str]],
    ) -> SCRSession:
        """Start one prefill. See `hooks.PrefillMethod`."""
        drawn = self.config.source == "random" or self.config.edit == "noise"
        keys = digests() if drawn else {}
        generators = [noise_generator(self.config.seed, keys[one.row, one.index]) for one in images if drawn]
        return SCRSession(self, images, generators, copies)


class SCRSession(PrefillSession):
    """SCR in one prefill, all rows and images of the batch at once."""

    def __init__(
        self, method: SCR, images: Sequence[ImagePatches], generators: Sequence[torch.Generator], copies: int
    ) -> None:
        """Start with the images, and for random controls with a generator of each."""
        self._config, self._images, self._traces, self._copies = method.config, images, method.traces, copies
        self._layers, self._attention_layers = method.layers, method.attention_layers
        self._generators = generators
        rows = torch.cat([torch.full_like(image.positions, image.row) for image in images])
        self._patches = Placed(rows, torch.cat([image.positions for image in images]))
        self._noise: dict[int, Tensor] = {}
        # Norms are compared after the last edited block that the diagnostic, which stops in its last one, completes.
        self._measured = min(self._layers[-1], self._attention_layers[-1] - 1)
        self._norms_before: Tensor | None = None
        self._norms_after: Tensor | None = None

    def observe(self, layer: int, hidden: Float[Tensor, "batch seq dim"]) -> None:
        """Note the images' norms without edits."""
        if layer == self._measured and layer in self._layers:
            self._norms_before = self._norms(hidden)

    def plan(self, diagnosis: Diagnosis) -> None:
        """Choose sources and neighbours of every image, and lay them out over the batch."""
        self._milliseconds = diagnosis.milliseconds
        self._attention = diagnosis.attention(self._images, self._attention_layers)
        if unseen := sum(not attention.any() for attention in self._attention):
            warnings.warn(
                f"{unseen} image(s) left as they are: no text attends to them at all, as when a sliding window has "
                "passed them. Put the question nearer to the image.",
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
        config, grids = self._config, self._images[index].grids
        values = self._attention[index]
        if not values.any():
            nothing = torch.zeros(0, dtype=torch.long, device="cpu")
            return RedistributionPlan(nothing, nothing, nothing)
        if config.source == "random":
            # The K highest of independent uniform numbers are K patches drawn uniformly without replacement.
            generator = self._generators[index]
            values = torch.rand(len(values), generator=generator, dtype=torch.float32, device="cpu")
        sizes = [grid.height * grid.width for grid in grids]
        return plan_redistribution(
            [part.reshape(*grid) for part, grid in zip(values.split(sizes), grids, strict=True)],
            num_sources=config.num_sources,
            connectivity=config.connectivity,
            radius=config.radius,
            include_border=config.include_border,
            selection=config.selection,
        )

    def edit(self, layer: int, output: Any) -> Any:
        """Redistribute after block `layer`; at λ = 1 nothing is touched."""
        if layer in self._layers and self._config.scale != 1 and self._num_sources:
            rows, positions, _ = self._edits.on(hidden_of(output).device)
            output = edit_tokens(output, rows, positions, functools.partial(self._edited, layer))
        if self._norms_before is not None and self._norms_after is None and layer == self._measured:
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
        if self._norms_before is not None and self._norms_after is not None:
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
