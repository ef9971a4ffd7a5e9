"""One look for all figures: colour-blind-safe, readable in grey, as wide as a paper's column; and how they are written.

matplotlib is imported when a figure is begun, never before: tables are there at once.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from scr.files import write_bytes, write_text

from .tables import Table, as_latex, as_markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN_WIDTH, PAGE_WIDTH = 3.35, 6.9
"""Inches: a column of a two-column paper, and the whole page."""
FORMATS = ("svg", "pdf", "png")
GREY = "#767676"

# Okabe & Ito 2008, ordered so that neighbours differ in grey too; what differs in nothing but colour is told apart by
# its marker and dashes.
COLORS = ("#000000", "#0072B2", "#D55E00", "#CC79A7", "#009E73", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")
_SETTINGS: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "errorbar.capsize": 2,
    "legend.frameon": False,
    # A "$" in a name is a dollar.
    "text.parse_math": False,
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    # Equal records give equal files.
    "svg.hashsalt": "scr-vlm",
}


class Look(NamedTuple):
    """How one series is drawn."""

    color: str
    marker: str
    linestyle: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Plot:
    """A figure and what it shows.

    Attributes:
        figure: the drawing.
        data: every number in it; its name is the stem of the figure's files.
        caption: one or two sentences: what is shown, and what an interval is.
        narrow: the same, drawn for a screen as wide as a hand; None where there is no such drawing.
    """

    figure: Figure
    data: Table
    caption: str
    narrow: Figure | None = None

    @property
    def name(self) -> str:
        """The stem of its files."""
        return self.data.name


def look(index: int) -> Look:
    """How the series of this number is drawn; after 28 it begins again."""
    turn = index // len(COLORS)
    return Look(COLORS[index % len(COLORS)], MARKERS[(index + turn) % len(MARKERS)], DASHES[index % len(DASHES)])


@contextlib.contextmanager
def paper_look() -> Iterator[None]:
    """Within it, figures are drawn in our look; a caller's own settings of matplotlib come back after it."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def new_figure(
    *, width: float = COLUMN_WIDTH, height: float | None = None, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, list[Any]]:
    """A figure and its axes, row by row; no window, no global state. To be called within `paper_look`.

    Args:
        width: in inches.
        height: in inches; None takes 0.72 of a panel's width for each row.
        rows: of panels.
        columns: of panels.
        options: what `Figure.subplots` takes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = height if height is not None else 0.72 * width / columns * rows
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.ravel())


def write_plot(plot: Plot, folder: Path | str, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write a figure in each format, and its table beside it.

    Returns:
        The files, the table's last.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with paper_look():
        written = [_write_figure(plot.figure, folder / f"{plot.name}.{name}") for name in formats]
    return [*written, *write_table(plot.data, folder)]


def write_narrow(plot: Plot, folder: Path | str) -> Path | None:
    """Write the narrow drawing as SVG; its file, None where there is no such drawing."""
    if plot.narrow is None:
        return None
    with paper_look():
        return _write_figure(plot.narrow, Path(folder) / f"{plot.name}-narrow.svg")


def write_table(table: Table, folder: Path | str) -> list[Path]:
    """Write a table as CSV, Markdown and LaTeX; the files, CSV first."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"csv": table.to_csv(), "md": as_markdown(table), "tex": as_latex(table)}
    for name, text in texts.items():
        write_text(folder / f"{table.name}.{name}", text)
    return [folder / f"{table.name}.{name}" for name in texts]


def _write_figure(figure: Figure, path: Path) -> Path:
    # Without a date: equal records give equal files.
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix, {})
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:], metadata=dates)
    write_bytes(path, drawn.getvalue())
    return path
