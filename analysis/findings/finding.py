"""What an analysis gives: tables, figures to be drawn from them, and what is to be said in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..drawing.style import Plot
from ..drawing.tables import Table
from ..reading.load import Run


@dataclass(frozen=True, kw_only=True, eq=False)
class Finding:
    """The outcome of one analysis. The data of each figure is among its tables.

    Attributes:
        title: a few words.
        tables: what a reader wants to see.
        data: tables too long to print, written beside the others.
        plots: what draws the figures, called only where they are wanted.
        notes: sentences on what was found and on what was left out.
    """

    title: str
    tables: tuple[Table, ...]
    data: tuple[Table, ...] = ()
    plots: tuple[Callable[[], Plot], ...] = ()
    notes: tuple[str, ...] = ()


Analysis = Callable[[Sequence[Run]], Sequence[Finding]]
"""Runs → findings; raises `NothingToShowError` where the records do not hold what it needs."""
