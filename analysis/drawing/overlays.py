"""The picture with a trace laid over it: attention, sources, neighbours. The report's page draws the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from scr.pages.veil import INK, INSET, OPACITY, RADIUS, STROKES


class Traced(Protocol):
    """What `scr.patch(model)` leaves in `traces`."""

    def to_dict(self) -> dict[str, Any]:
        """Its fields as JSON values."""


class TraceError(ValueError):
    """A trace does not fit its own grids, or does not tell which of them to draw."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Layers:
    """What of a trace can be drawn.

    Attributes:
        grids: (height, width) of each, in patches; indices below run over the patches of all, row-major.
        whole: which grid shows the whole picture; None where none is known to, and where the others, tiles, lie is in
            no record.
        attention: one number ≥ 0 per patch; None where not recorded.
        sources: patches.
        neighbors: patches.
        owners: for each neighbour the index, into `sources`, of its source.
    """

    grids: tuple[tuple[int, int], ...]
    whole: int | None
    attention: NDArray[np.float64] | None
    sources: tuple[int, ...]
    neighbors: tuple[int, ...]
    owners: tuple[int, ...]

    @property
    def patches(self) -> int:
        """Number of patches of all grids."""
        return sum(height * width for height, width in self.grids)

    def relative_attention(self) -> NDArray[np.float64] | None:
        """Attention as a share of the most attended patch's."""
        if self.attention is None:
            return None
        most = float(self.attention.max())
        return self.attention / most if most > 0 else np.zeros_like(self.attention)


def read_layers(trace: Mapping[str, Any] | Traced | None) -> Layers | None:
    """What a trace holds of the layers; None where it has no grids.

    Raises:
        TraceError: where maps or indices do not fit the grids.
    """
    if trace is None:
        return None
    fields: Mapping[str, Any] = trace if isinstance(trace, Mapping) else trace.to_dict()
    if not fields.get("grids"):
        return None
    try:
        grids = tuple((int(height), int(width)) for height, width in fields["grids"])
        whole = 0 if len(grids) == 1 else fields.get("whole")
        given = fields.get("attention")
        attention = None if given is None else np.array(given, dtype=np.float64)
        sources, neighbors, owners = (
            tuple(int(one) for one in fields.get(name) or ()) for name in ("sources", "neighbors", "owners")
        )
    except (TypeError, ValueError) as error:
        raise TraceError(
            f"a trace cannot be drawn: got {type(error).__name__}: {error}; expected grids, numbers and indices. "
            "Run it again with --diagnostics entropy."
        ) from error
    layers = Layers(grids=grids, whole=whole, attention=attention, sources=sources, neighbors=neighbors, owners=owners)
    sizes_fit = all(height > 0 and width > 0 for height, width in grids) and len(owners) == len(neighbors)
    sizes_fit = sizes_fit and (whole is None or (type(whole) is int and 0 <= whole < len(grids)))
    map_fits = attention is None or (
        attention.shape == (layers.patches,) and bool(np.isfinite(attention).all() and (attention >= 0).all())
    )
    indices_fit = all(0 <= one < layers.patches for one in (*sources, *neighbors)) and all(
        0 <= one < len(sources) for one in owners
    )
    if not (sizes_fit and map_fits and indices_fit):
        raise TraceError(
            f"a trace does not fit its grids: got {None if attention is None else attention.shape} of attention, "
            f"{len(sources)} sources, {len(neighbors)} neighbours with {len(owners)} owners on grids {list(grids)}; "
            f"expected {layers.patches} patches. Run it again with --diagnostics entropy."
        )
    return layers


def overlay(
    image: Image.Image | Path | str | None,
    trace: Mapping[str, Any] | Traced,
    *,
    grid: int | None = None,
    size: int = 480,
) -> Image.Image:
    """One picture, dark where it is little attended to, with sources (squares) and neighbours (dots, a line to each).

    Args:
        image: the picture that was asked about; None draws on a plain ground.
        trace: of a record, or one of `scr.patch(model).traces`.
        grid: which of the trace's grids covers the picture; None takes the only one. Where tiles lie is not recorded.
        size: pixels of the longer side.

    Raises:
        TraceError: where the trace has no grid, has several and none is named, or does not fit its grids.
        OSError: where the file is no picture.
    """
    layers = read_layers(trace)
    if layers is None or (grid is None and len(layers.grids) != 1) or not -1 <= (grid or 0) < len(layers.grids):
        raise TraceError(
            f"which grid lies over the picture: got {grid} of {[] if layers is None else list(layers.grids)}; expected "
            "the index of one, or -1 for the last. Name it with grid=."
        )
    index = (grid or 0) % len(layers.grids)
    rows, columns = layers.grids[index]
    start = sum(height * width for height, width in layers.grids[:index])
    ground = _ground(image, (columns, rows), size)
    shares = layers.relative_attention()
    if shares is not None:
        alpha = (255 * OPACITY * (1 - shares[start : start + rows * columns])).round().astype(np.uint8)
        mask = Image.fromarray(alpha.reshape(rows, columns)).resize(ground.size, Image.Resampling.NEAREST)
        ground.paste(Image.new("RGB", ground.size, INK["dark"]), mask=mask)
    # Drawn twice as large and made smaller: PIL does not smooth lines.
    marks = Image.new("RGBA", (2 * ground.width, 2 * ground.height))
    _draw_marks(ImageDraw.Draw(marks), layers, start, (rows, columns), marks.size)
    ground.paste(marks.resize(ground.size, Image.Resampling.LANCZOS), mask=marks.resize(ground.size).getchannel("A"))
    return ground


def _ground(image: Image.Image | Path | str | None, grid: tuple[int, int], size: int) -> Image.Image:
    if image is None:
        picture = Image.new("RGB", grid, "#dddddd")
    elif isinstance(image, Image.Image):
        picture = image.convert("RGB")
    else:
        with Image.open(image) as opened:
            picture = opened.convert("RGB")
    factor = size / max(picture.size)
    shape = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(shape, Image.Resampling.LANCZOS)


def _draw_marks(
    draw: ImageDraw.ImageDraw, layers: Layers, start: int, grid: tuple[int, int], size: tuple[int, int]
) -> None:
    rows, columns = grid
    wide, high = size[0] / columns, size[1] / rows
    unit = min(wide, high)

    def center(patch: int) -> tuple[float, float]:
        row, column = divmod(patch - start, columns)
        return (column + 0.5) * wide, (row + 0.5) * high

    def inside(patch: int) -> bool:
        return start <= patch < start + rows * columns

    edges = [
        (neighbor, layers.sources[owner])
        for neighbor, owner in zip(layers.neighbors, layers.owners, strict=True)
        if inside(neighbor)
    ]
    for width, color in zip(STROKES, (INK["light"], INK["neighbor"]), strict=True):
        for neighbor, source in edges:
            if inside(source):
                draw.line([*center(source), *center(neighbor)], fill=color, width=max(1, round(width * unit)))
    for neighbor, _ in edges:
        x, y = center(neighbor)
        box = [x - RADIUS * unit, y - RADIUS * unit, x + RADIUS * unit, y + RADIUS * unit]
        draw.ellipse(box, fill=INK["neighbor"], outline=INK["dark"], width=max(1, round(STROKES[1] * unit / 2)))
    for width, color in zip(STROKES, (INK["light"], INK["dark"]), strict=True):
        for source in filter(inside, layers.sources):
            x, y = center(source)
            # PIL draws an outline inwards of its box; the line is to run along the box.
            half = width * unit / 2
            across, up = (0.5 - INSET) * wide + half, (0.5 - INSET) * high + half
            draw.rectangle([x - across, y - up, x + across, y + up], outline=color, width=max(1, round(width * unit)))
