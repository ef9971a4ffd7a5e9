"""Tables: what every figure is drawn from, and how it is written as CSV, Markdown or LaTeX."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from .escaping import for_csv, for_latex, for_markdown, for_name, printable

Cell = str | int | float | bool | None
"""What a table holds; None is "not known" and reads "–"."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows and columns with a title; numbers stand unrounded in it.

    Columns `x`, `x_low` and `x_high` are a value and its interval: shown as one column, written to CSV as three.

    Attributes:
        name: stem of the files that it is written to.
        title: one sentence without a full stop.
        columns: their names.
        rows: a cell per column each.
        percent: columns of fractions that are shown in percent.
        notes: sentences to print below.

    Raises:
        ValueError: for a row of another length, or a column that `percent` names and is not there.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    percent: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the shape."""
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        if wrong or not self.percent <= set(self.columns):
            raise ValueError(
                f"the table does not fit its columns: got {wrong[:1]} and percent {sorted(self.percent)}; "
                f"expected cells of {self.columns}. Check both."
            )

    def column(self, name: str) -> list[Cell]:
        """The cells of a column."""
        index = self.columns.index(name)
        return [row[index] for row in self.rows]

    def records(self) -> Iterator[dict[str, Cell]]:
        """The rows, column → cell."""
        return (dict(zip(self.columns, row, strict=True)) for row in self.rows)

    def to_csv(self) -> str:
        """The table as CSV: all columns, unrounded; None is empty, and no text is a formula."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(map(for_csv, self.columns))
        writer.writerows(map(_csv_cell, row) for row in self.rows)
        return stream.getvalue()


def by_model(table: Table) -> list[Table]:
    """A table per model, named after it, for a figure each; the table itself where there is one model."""
    models = list(dict.fromkeys(str(cell) for cell in table.column("model")))
    if len(models) < 2:
        return [table]
    index = table.columns.index("model")
    names: list[str] = []
    for model in models:
        name = f"{table.name}_{for_name(model)}"
        names.append(name if name not in names else f"{name}-{len(names) + 1}")
    return [
        dataclasses.replace(
            table,
            name=name,
            title=f"{table.title}: {model}",
            rows=tuple(row for row in table.rows if row[index] == model),
        )
        for name, model in zip(names, models, strict=True)
    ]


def as_markdown(table: Table) -> str:
    """The table in Markdown, its title above and its notes below."""
    names, rows = shown_cells(table)
    numeric = [is_numeric(table, name) for name in names]
    head = [name.replace("_", " ") for name in names]
    rule = f"| {' | '.join('--:' if one else '---' for one in numeric)} |"
    lines = [f"**{for_markdown(table.title)}**", "", _line(head), rule, *map(_line, rows)]
    lines += [line for note in table.notes for line in ("", for_markdown(note))]
    return "\n".join(lines) + "\n"


def as_latex(table: Table) -> str:
    """The table in LaTeX, for the package booktabs; its notes are comments."""
    names, rows = shown_cells(table)
    layout = "".join("r" if is_numeric(table, name) else "l" for name in names)
    body = [" & ".join(map(for_latex, row)) + r" \\" for row in rows]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{for_latex(table.title)}}}",
        rf"\label{{tab:{for_name(table.name).replace('_', '-')}}}",
        rf"\begin{{tabular}}{{{layout}}}",
        r"\toprule",
        " & ".join(for_latex(name.replace("_", " ")) for name in names) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join([*(f"% {printable(note)}" for note in table.notes), *lines]) + "\n"


def format_cell(cell: Cell, *, percent: bool = False) -> str:
    """A cell as text: three digits after the point, in percent one; whole numbers as they are, small ones as 1e-05."""
    if _is_missing(cell):
        return "–"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int | float) and percent:
        return f"{100 * cell:.1f}"
    if isinstance(cell, float):
        return f"{cell:.3f}" if cell == 0 or abs(cell) >= 0.0005 else f"{cell:.1e}"
    return str(cell)


class ShownCell(NamedTuple):
    """A cell as text: the value, and "low to high" of its interval, empty where it has none."""

    text: str
    interval: str


def split_cells(table: Table) -> tuple[list[str], list[list[ShownCell]]]:
    """Names of columns, and rows as a reader sees them: an interval belongs to its value, and is no column."""
    bounds = {name: (f"{name}_low", f"{name}_high") for name in table.columns}
    bounds = {name: pair for name, pair in bounds.items() if set(pair) <= set(table.columns)}
    hidden = {bound for pair in bounds.values() for bound in pair}
    names = [name for name in table.columns if name not in hidden]
    return names, [[_shown(row, name, bounds, name in table.percent) for name in names] for row in table.records()]


def shown_cells(table: Table) -> tuple[list[str], list[list[str]]]:
    """Names of columns, percent said, and rows of text: each interval in brackets beside its value."""
    names, rows = split_cells(table)
    return (
        [f"{name} %" if name in table.percent else name for name in names],
        [[f"{cell.text} ({cell.interval})" if cell.interval else cell.text for cell in row] for row in rows],
    )


def _shown(row: Mapping[str, Cell], name: str, bounds: Mapping[str, tuple[str, str]], percent: bool) -> ShownCell:
    text = format_cell(row[name], percent=percent)
    if name not in bounds or any(_is_missing(row[bound]) for bound in bounds[name]):
        return ShownCell(text, "")
    return ShownCell(text, " to ".join(format_cell(row[bound], percent=percent) for bound in bounds[name]))


def _csv_cell(cell: Cell) -> Cell:
    return "" if _is_missing(cell) else for_csv(cell) if isinstance(cell, str) else cell


def _is_missing(cell: Cell) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def is_numeric(table: Table, name: str) -> bool:
    """Whether a column, by its shown name, holds numbers."""
    cells = [cell for cell in table.column(name.removesuffix(" %")) if cell is not None]
    return bool(cells) and all(isinstance(cell, int | float) for cell in cells)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(map(for_markdown, cells))} |"
