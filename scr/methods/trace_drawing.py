"""A trace as a picture for notebooks: attention, sources and neighbours over the patch grid, as SVG."""

from __future__ import annotations

import html
import itertools
from collections.abc import Sequence

from .._hooks import PatchGrid

_CELL, _GAP = 12, 8  # of a patch and between grids, in the drawing's own units
_WIDEST = 360  # pixels of the longer side on the page


def as_svg(
    title: str,
    grids: Sequence[PatchGrid],
    attention: Sequence[float],
    sources: Sequence[int],
    neighbors: Sequence[int],
    owners: Sequence[int],
) -> str:
    """The grids side by side: light where attention is high, squares for sources, dots for neighbours, a line to each.

    Attention is relative to the highest of all grids. `title` is shown where the picture is pointed at; the other
    arguments are the fields of a `Trace`, as lists.
    """
    columns = [width for _, width in grids]
    lefts = list(itertools.accumulate((width * _CELL + _GAP for width in columns), initial=0))
    width, height = lefts[-1] - _GAP, max(rows for rows, _ in grids) * _CELL
    places = [
        (left + column * _CELL, row * _CELL)
        for (rows, wide), left in zip(grids, lefts, strict=False)
        for row in range(rows)
        for column in range(wide)
    ]
    highest = max(attention) or 1.0
    cells = [
        f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" fill="hsl(220 30% {15 + 75 * value / highest:.0f}%)"/>'
        for (x, y), value in zip(places, attention, strict=True)
    ]
    middles = [(x + _CELL / 2, y + _CELL / 2) for x, y in places]
    lines, dots = [], []
    for neighbor, owner in zip(neighbors, owners, strict=True):
        (x, y), (to_x, to_y) = middles[neighbor], middles[sources[owner]]
        lines.append(f'<line x1="{x}" y1="{y}" x2="{to_x}" y2="{to_y}" stroke="#e69f00"/>')
        dots.append(f'<circle cx="{x}" cy="{y}" r="2" fill="#e69f00"/>')
    squares = [
        f'<rect x="{x + 2}" y="{y + 2}" width="{_CELL - 4}" height="{_CELL - 4}" fill="none" stroke="#d55e00" '
        'stroke-width="2"/>'
        for x, y in (places[source] for source in sources)
    ]
    scale = _WIDEST / max(width, height)
    name = f"<title>{html.escape(title)}</title>"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width * scale:.0f}" '
        f'height="{height * scale:.0f}" role="img">{name}{"".join([*cells, *lines, *dots, *squares])}</svg>'
    )
