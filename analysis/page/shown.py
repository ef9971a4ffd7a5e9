"""A table as the page has it: words for names, an interval under its number, no line longer than the page is wide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from ..drawing.tables import ShownCell, Table, is_numeric, split_cells
from .wording import shown_name, shown_text

LINE = 110
"""Digits that fit on a line of a table, where the window is 1,280 pixels wide and the font a wide one."""
_GAP, _SMALL, _TEXT, _WORD, _LINES = 2, 0.9, 12, 24, 4
_COUNTS = ("samples", "questions", "captions", "images")


class ShownColumn(NamedTuple):
    """A column.

    Attributes:
        name: in the files.
        words: its head.
        numeric: whether it holds numbers.
        cells: top to bottom; of a text the interval is empty.
    """

    name: str
    words: str
    numeric: bool
    cells: tuple[ShownCell, ...]

    @property
    def width(self) -> int:
        """Digits that it needs at least: texts and heads may be broken between words, numbers may not."""
        head = max(_longest_word(self.words), math.ceil(len(self.words) / _LINES))
        if not self.numeric:
            return max([head, self.word, *(min(len(cell.text), _TEXT) for cell in self.cells)]) + _GAP
        widths = [max(len(cell.text), math.ceil(_SMALL * len(cell.interval))) for cell in self.cells]
        return max([head, *widths]) + _GAP

    @property
    def word(self) -> int:
        """Letters of its longest word, that are not broken; longer ones than any name of ours are."""
        return min(max((_longest_word(cell.text) for cell in self.cells), default=0), _WORD)

    @property
    def same(self) -> bool:
        """Whether all rows say the same."""
        return len(self.cells) > 1 and len({cell.text for cell in self.cells}) == 1


@dataclass(frozen=True, kw_only=True)
class ShownTable:
    """A table for the template.

    Attributes:
        title: its caption.
        same: words and value of the columns that say the same in every row, which are not shown.
        labels: columns that say what a row is about.
        spans: for each label and row, so many rows have that label in common, from this one on; 0 where one above says
            it.
        parts: the other columns, cut where a line is full; each part stands in a table of its own beside the labels.
        rows: their number.
        notes: sentences.
        files: what it was written to, relative to the page.
    """

    title: str
    same: list[tuple[str, str]]
    labels: list[ShownColumn]
    spans: list[list[int]]
    parts: list[list[ShownColumn]]
    rows: int
    notes: list[str]
    files: list[str]


def show_table(table: Table, files: Sequence[str]) -> ShownTable:
    """The table for the page.

    Args:
        table: what is shown.
        files: what it was written to.
    """
    columns = _columns(table)
    first = next((place for place, column in enumerate(columns) if column.numeric), len(columns))
    labels, values = columns[:first], columns[first:]
    same = [column for column in labels if column.same]
    same = same if len(same) < len(labels) else same[:-1]
    same += [column for column in values if column.name in _COUNTS and column.same]
    labels, values = ([column for column in part if column not in same] for part in (labels, values))
    return ShownTable(
        title=table.title,
        same=[(column.words, column.cells[0].text) for column in same],
        labels=labels,
        spans=_spans(labels, len(table.rows)),
        parts=_cut(labels, values),
        rows=len(table.rows),
        notes=list(table.notes),
        files=list(files),
    )


def _columns(table: Table) -> list[ShownColumn]:
    names, rows = split_cells(table)
    columns = [
        ShownColumn(
            name,
            shown_name(name, percent=name in table.percent),
            is_numeric(table, name),
            tuple(_worded(name, cell, numeric=is_numeric(table, name)) for cell in cells),
        )
        for name, cells in zip(names, zip(*rows, strict=True) if rows else [()] * len(names), strict=True)
    ]
    errors = {column.name: column for column in columns if column.name.removesuffix("_error") in names}
    return [
        _with_error(column, errors[f"{column.name}_error"]) if f"{column.name}_error" in errors else column
        for column in columns
        if not (column.name.endswith("_error") and column.name in errors)
    ]


def _worded(name: str, cell: ShownCell, *, numeric: bool) -> ShownCell:
    """Words for the names of metrics, and minus signs for hyphens before digits."""
    return ShownCell(*(of.replace("-", "−") for of in cell)) if numeric else ShownCell(shown_text(name, cell.text), "")


def _spans(labels: Sequence[ShownColumn], rows: int) -> list[list[int]]:
    """Rows of one label are taken together, where they have the labels before it in common too."""
    spans = []
    begins = [row == 0 for row in range(rows)]
    for column in labels[:-1]:
        texts = [cell.text for cell in column.cells]
        begins = [first or texts[row] != texts[row - 1] for row, first in enumerate(begins)]
        starts = [row for row, first in enumerate(begins) if first]
        length = dict(zip(starts, (after - start for start, after in pairwise([*starts, rows])), strict=True))
        spans.append([length.get(row, 0) for row in range(rows)])
    return [*spans, [1] * rows]


def _with_error(column: ShownColumn, error: ShownColumn) -> ShownColumn:
    """A standard error stands where an interval would."""
    pairs = zip(column.cells, error.cells, strict=True)
    return column._replace(
        cells=tuple(ShownCell(one.text, f"± {of.text}" if of.text != "–" else "") for one, of in pairs)
    )


def _cut(labels: Sequence[ShownColumn], values: Sequence[ShownColumn]) -> list[list[ShownColumn]]:
    """The values in as many parts as lines of this width need."""
    left = LINE - sum(column.width for column in labels)
    parts: list[list[ShownColumn]] = [[]]
    for column in values:
        if parts[-1] and sum(one.width for one in parts[-1]) + column.width > left:
            parts.append([])
        parts[-1].append(column)
    return parts


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0)
