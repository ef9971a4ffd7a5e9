"""What SCR did to one image of one prompt."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from .._hooks import PatchGrid
from .trace_drawing import as_svg
from .wording import one_line


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Trace:
    """One image of one prefill; tensors on the CPU, indices as in `RedistributionPlan`.

    Attributes:
        row: row of the prompt, as given to `generate`, which beams and returned sequences share; where they cannot be
            told apart from rows of their own (a cache in use, flex attention), row of the forward's batch.
        image: how many images come before it in the row.
        grids: (height, width) of its rasters, in patches.
        sources: chosen patches, by descending attention (of `source="random"`: in the order drawn).
        neighbors: patches that received.
        owners: index into `sources`, for each neighbour.
        attention: the spatial attention map A, flat, over the patches of all grids: weights ≥ 0, a sum of at most 1.
        entropy: entropy of A, in nats.
        norm_ratio: sum of the patches' L2 norms with the edits, divided by the sum without, after the last edited block
            that the diagnostic pass reached; None if it reached none.
        milliseconds: wall time of the diagnostic pass, of the whole batch.
        attention_layers: the blocks whose attention was averaged: of those asked for, all that have attention maps;
            none where A was predicted.
    """

    row: int
    image: int
    grids: tuple[PatchGrid, ...]
    sources: Int[Tensor, "sources"]
    neighbors: Int[Tensor, "edges"]
    owners: Int[Tensor, "edges"]
    attention: Float[Tensor, "patches"]
    entropy: float
    norm_ratio: float | None
    milliseconds: float
    attention_layers: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            name: value.tolist()
            if isinstance(value, Tensor)
            else [list(grid) for grid in value]
            if name == "grids"
            else value
            for name, value in vars(self).items()
        }

    def __repr__(self) -> str:
        """What was done, on a line."""
        ratio = None if self.norm_ratio is None else round(self.norm_ratio, 2)
        grids = ", ".join(f"{height}×{width}" for height, width in self.grids)
        counts = f"{len(self.sources)} sources, {len(self.neighbors)} neighbours"
        found = f", {counts}, entropy={self.entropy:.2f}, norm_ratio={ratio})"
        return one_line("Trace", f"row={self.row}", f"image={self.image}", f"grids={grids}", end=found)

    def _repr_html_(self) -> str:
        """What a notebook shows: the map and the edits over the grid, and the line above."""
        lists = [one.tolist() for one in (self.attention, self.sources, self.neighbors, self.owners)]
        drawing = as_svg(repr(self), self.grids, *lists)
        return f"<figure>{drawing}<figcaption><code>{html.escape(repr(self))}</code></figcaption></figure>"
