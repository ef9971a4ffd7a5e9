"""Spatial credit redistribution: choose sources, claim neighbours, rescale. The paper's equations as pure tensors.

Source: "Beyond Dominant Patches: Spatial Credit Redistribution For Grounded Vision-Language Models", arXiv 2602.22469.

    >>> plan = plan_redistribution(torch.rand(24, 24), num_sources=32)
    >>> hidden = redistribute(hidden, plan, scale=1.10)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .errors import ConfigError
from .fields import LARGEST, Count, checked
from .kinds import Between

Selection = Literal["top_k", "greedy"]
Connectivity = Literal[4, 8]
Scale = Annotated[float, Between(1, LARGEST)]
Grids = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class RedistributionPlan:
    """Which patches give and which receive, as flat row-major patch indices that run on from grid to grid.

    Attributes:
        sources: the chosen patches, by descending attention.
        neighbors: the patches that receive, each once, grouped by source in the order of `sources`, ascending within.
        owners: for each neighbour the index, into `sources`, of the source that claimed it.
    """

    sources: Int[Tensor, "sources"]
    neighbors: Int[Tensor, "edges"]
    owners: Int[Tensor, "edges"]


def plan_redistribution(
    attention: Float[Tensor, "height width"] | Sequence[Float[Tensor, "height width"]],
    *,
    num_sources: int = 32,
    connectivity: Connectivity = 8,
    radius: int = 1,
    include_border: bool = False,
    selection: Selection = "top_k",
) -> RedistributionPlan:
    """Choose the sources of one image and the neighbours that each of them claims (paper, source selection).

    The patches with the highest attention are the sources; ties go to the lower index. A neighbour of several sources
    belongs to the one with the highest attention. A source is never a neighbour, and a neighbourhood never leaves its
    grid. Grids without an eligible patch contribute no source.

    Args:
        attention: how much the text attends to each patch, as a 2-D grid, or one per grid of the image (tiles,
            thumbnail, frames); the sources are chosen over all of them. Arrays are converted.
        num_sources: K, capped at the eligible patches.
        connectivity: 8 for Chebyshev distance ≤ `radius`, 4 for Manhattan distance.
        radius: reach of a neighbourhood, in patches.
        include_border: whether border patches may be sources; they may always be neighbours.
        selection: `"top_k"`, or `"greedy"`: a candidate that a higher source claimed already as its neighbour is passed
            over, and the next best takes its place.

    Returns:
        The plan, whose tensors are on the CPU.

    Raises:
        ConfigError: for values out of range, or attention that is not 2-D and finite.
    """
    num_sources = checked("num_sources", num_sources, Count)
    connectivity = checked("connectivity", connectivity, Connectivity)
    radius = checked("radius", radius, Count)
    selection = checked("selection", selection, Selection)
    given = [attention] if hasattr(attention, "ndim") else attention
    # Without a device `as_tensor` would move them to torch's default one.
    grids = [grid if isinstance(grid, Tensor) else torch.as_tensor(grid, device="cpu") for grid in given]
    if not grids or any(grid.ndim != 2 for grid in grids):
        shapes = [tuple(grid.shape) for grid in grids]
        raise ConfigError(
            f"attention is not a patch grid: got shapes {shapes}; expected 2-D tensors (height, width). "
            "Reshape the map to the image's grid, or pass one tensor per grid."
        )
    flat = torch.cat([grid.detach().cpu().double().flatten() for grid in grids])
    if not torch.isfinite(flat).all():
        raise ConfigError(
            "attention is not finite: got NaN or infinity; expected finite values. Check the model's dtype."
        )
    table = _neighborhoods(tuple(tuple(grid.shape) for grid in grids), connectivity, radius, include_border)
    order = torch.sort(flat, descending=True, stable=True).indices.tolist()

    claimed: dict[int, int] = {}  # neighbour → index of the source that owns it
    sources: list[int] = []
    if selection == "top_k":
        sources = [patch for patch in order if table.eligible[patch]][:num_sources]
    else:
        for patch in order:
            if len(sources) == num_sources:
                break
            if table.eligible[patch] and patch not in claimed:
                for neighbor in table.neighbors[patch]:
                    claimed.setdefault(neighbor, len(sources))
                sources.append(patch)
    taken = set(sources)
    claimed = {}
    for owner, source in enumerate(sources):
        for neighbor in table.neighbors[source]:
            if neighbor not in taken:
                claimed.setdefault(neighbor, owner)
    return RedistributionPlan(
        sources=torch.tensor(sources, dtype=torch.long, device="cpu"),
        neighbors=torch.tensor(list(claimed.keys()), dtype=torch.long, device="cpu"),
        owners=torch.tensor(list(claimed.values()), dtype=torch.long, device="cpu"),
    )


def redistribute(
    hidden: Float[Tensor, "patches dim"], plan: RedistributionPlan, scale: float = 1.10
) -> Float[Tensor, "patches dim"]:
    """Spread the sources' hidden states over their neighbours (paper, redistribution; λ is `scale`).

    `h_n ← h_n + (λ − 1)·h_s` for each neighbour n of s, with the old `h_s`; then `h_s ← h_s / λ`. Other patches stay
    bit-equal. Returns a new tensor, through which gradients flow.

    Args:
        hidden: hidden states of one image's patches, in the plan's order.
        plan: who gives and who receives.
        scale: λ ≥ 1; at 1.0 the result equals `hidden`.

    Raises:
        ConfigError: for a scale below 1.
    """
    scale = checked("scale", scale, Scale)
    sources, neighbors, owners = (index.to(hidden.device) for index in (plan.sources, plan.neighbors, plan.owners))
    given = hidden[sources]
    hidden = hidden.index_put((neighbors,), receive(hidden[neighbors], given[owners], scale))
    return hidden.index_put((sources,), give(given, scale))


def receive(
    neighbors: Float[Tensor, "edges dim"], owners: Float[Tensor, "edges dim"], scale: float
) -> Float[Tensor, "edges dim"]:
    """New states of neighbours: `h_n + (λ − 1)·h_s`, given the *old* state of each one's owner."""
    return neighbors + (scale - 1) * owners


def give(sources: Float[Tensor, "sources dim"], scale: float) -> Float[Tensor, "sources dim"]:
    """New states of sources: `h_s / λ`."""
    return sources / scale


@dataclass(frozen=True)
class _Neighborhoods:
    eligible: tuple[bool, ...]
    neighbors: tuple[tuple[int, ...], ...]


@functools.lru_cache(maxsize=64)  # a table costs up to 4 ms to build, and prompts repeat their grids
def _neighborhoods(grids: Grids, connectivity: int, radius: int, include_border: bool) -> _Neighborhoods:
    eligible: list[bool] = []
    neighbors: list[tuple[int, ...]] = []
    for height, width in grids:
        first = len(eligible)
        for row in range(height):
            for column in range(width):
                border = row in (0, height - 1) or column in (0, width - 1)
                neighbors.append(
                    tuple(
                        first + near * width + beside
                        for near in range(max(0, row - radius), min(height, row + radius + 1))
                        for beside in range(max(0, column - radius), min(width, column + radius + 1))
                        if (near, beside) != (row, column)
                        and (connectivity == 8 or abs(near - row) + abs(beside - column) <= radius)
                    )
                )
                eligible.append(include_border or not border)
    return _Neighborhoods(tuple(eligible), tuple(neighbors))
