"""Where our command lines print tables: in a terminal, or as plain text; and how metrics and intervals are written."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 100
LABELS = {"f1": "F1", "hallucination_rate": "HR", "auc": "AUC", "chair_s": "CHAIR-s", "chair_i": "CHAIR-i"}
"""Metric → what tables call it, where that is not its name."""
# Where a stream can write ASCII only, these say the same.
_ASCII = str.maketrans({"–": "-", "…": "..", "→": ">", "·": "-", "×": "x", "−": "-", "─": "-", "━": "-", "╶": "-"})


class Printer:
    """A console for a terminal, or plain text of a fixed width for anything else.

    Attributes:
        width: in characters.
        colour: whether colours are shown; where they are not, marks have to say what they say.
    """

    def __init__(self, file: TextIO | None) -> None:
        """Look at the stream; None is standard output."""
        self._file = file if file is not None else sys.stdout
        self._terminal = self._file.isatty()
        console = Console(file=self._file)
        self.width = console.width if self._terminal else WIDTH
        self.colour = self._terminal and console.color_system is not None and not console.no_color

    def table(self, *headers: str) -> Table:
        """A table whose first column is text and whose others are numbers."""
        table = Table(box=None, pad_edge=False, padding=(0, 0, 0, 1), header_style="bold")
        for index, header in enumerate(headers):
            # Folded where it does not fit: a number without its end is another number.
            table.add_column(header, justify="left" if index == 0 else "right", vertical="bottom", overflow="fold")
        return table

    def add(self, table: Table) -> None:
        """A table, and an empty line after it."""
        self._print(table)
        self.line()

    def line(self, text: str | Text = "", *, style: str | None = None) -> None:
        """A paragraph, wrapped at the width."""
        self._print(text, style=style)

    def path(self, text: str) -> None:
        """A line that is never wrapped: a path in two parts cannot be copied."""
        self._print(text, soft_wrap=True)

    def _print(self, content: Any, *, style: str | None = None, soft_wrap: bool = False) -> None:
        # Printed into memory first, so that a stream that knows only ASCII gets ASCII and not an error.
        console = Console(
            file=self._file,
            width=self.width,
            force_terminal=self._terminal,
            highlight=False,
            markup=False,
            emoji=False,
            legacy_windows=False,
        )
        with console.capture() as captured:
            console.print(content, style=style, soft_wrap=soft_wrap)
        text = captured.get()
        if not self._terminal:
            text = "\n".join(line.rstrip() for line in text.split("\n"))
        try:
            text.encode(self._file.encoding or "utf-8")
        except UnicodeEncodeError:
            text = text.translate(_ASCII).encode("ascii", "replace").decode()
        self._file.write(text)


def value_text(name: str, value: float | None, units: Mapping[str, str], *, sign: bool = False) -> str:
    """A metric's value: a rate in %, an area with three digits, anything else in its own unit; a dash for None."""
    if value is None:
        return "–"
    if name == "auc":
        return f"{value:+.3f}" if sign else f"{value:.3f}"
    shown = value if name in units else 100 * value
    return f"{shown:+.1f}" if sign else f"{shown:.1f}"


def interval_text(name: str, interval: Sequence[float] | None, units: Mapping[str, str], *, sign: bool = False) -> str:
    """An interval of that metric; nothing for None."""
    if interval is None:
        return ""
    low, high = (value_text(name, bound, units, sign=sign) for bound in interval)
    return f"{low}…{high}" if sign else f"{low}–{high}"
