"""What several figures share: grids of panels, lines with intervals, one legend below all panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .style import PAGE_WIDTH, Look, new_figure
from .tables import Cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEGEND_LINE = 0.17  # inches
_LETTERS = 115  # of the legend's font, on a page's width


def panel_grid(panels: int, *, columns: int = 3, ratio: float = 0.8, **options: Any) -> tuple[Figure, list[Any]]:
    """A figure of that many panels, filled row by row; one third of a page each, two thirds where there is one alone.

    Args:
        panels: how many; one or more.
        columns: at most.
        ratio: height over width of a panel.
        options: what `Figure.subplots` takes.
    """
    columns = min(columns, panels)
    rows = -(-panels // columns)
    width = PAGE_WIDTH * max(columns, 2) / 3
    figure, axes = new_figure(width=width, height=ratio * width / columns * rows, rows=rows, columns=columns, **options)
    for axis in axes[panels:]:
        axis.set_visible(False)
    return figure, axes[:panels]


def floats(rows: Sequence[Mapping[str, Cell]], name: str) -> NDArray[np.float64]:
    """A column as numbers, NaN for None."""
    return np.array([np.nan if row[name] is None else row[name] for row in rows], dtype=np.float64)


def draw_intervals(
    axis: Any,
    x: ArrayLike,
    rows: Sequence[Mapping[str, Cell]],
    name: str,
    style: Look,
    *,
    label: str,
    scale: float = 100,
) -> None:
    """A line through the values `name` with bars from `name_low` to `name_high`; in percent unless told otherwise."""
    value, low, high = (scale * floats(rows, f"{name}{end}") for end in ("", "_low", "_high"))
    # Rounding may put a bound on the other side of its value; matplotlib refuses that.
    errors = np.nan_to_num(np.stack([value - low, high - value])).clip(min=0)
    axis.errorbar(x, value, errors, label=label, elinewidth=0.7, **style._asdict())


def legend_below(figure: Figure) -> None:
    """One legend for all panels, below them; the figure grows by its height. Nothing where nothing is labelled."""
    handles: dict[str, Any] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if not handles:
        return
    width, height = figure.get_size_inches()
    longest = max(map(len, handles)) + 8
    columns = int(np.clip(_LETTERS * width / PAGE_WIDTH // longest, 1, len(handles)))
    lines = -(-len(handles) // columns)
    figure.set_size_inches(width, height + _LEGEND_LINE * lines + 0.1)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns)
