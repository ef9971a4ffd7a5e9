"""What `benchmarks.doubts` found, as two tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TextIO

from ..stats import Difference
from ..studies.doubts import Quality, Row
from .console import Printer, interval_text, value_text

_PRECISION = "precision"


def print_qualities(found: Sequence[Quality], costs: Mapping[str, float], file: TextIO | None = None) -> None:
    """Print how well each measure finds made-up mentions, and what it costs.

    Args:
        found: the measures and their combination.
        costs: name → what it adds to the time without doubts, as a share.
        file: where to; None for standard output.
    """
    printer = Printer(file)
    table = printer.table("", "AUC", "", "precision at\n80 % recall", "", "time")
    for one in found:
        table.add_row(
            one.name,
            value_text("auc", one.auc, {}),
            interval_text("auc", one.auc_interval, {}),
            value_text(_PRECISION, one.precision, {}),
            interval_text(_PRECISION, one.precision_interval, {}),
            f"{value_text('time', costs[one.name], {}, sign=True)} %",
        )
    printer.add(table)


def print_rows(rows: Sequence[Row], file: TextIO | None = None) -> None:
    """Print CHAIR of the captions as they are, of what is left of them, and of other methods' captions."""
    printer = Printer(file)
    table = printer.table("", "CHAIR-i", "recall", "Δ CHAIR-i", "", "Δ recall", "")
    for one in rows:
        changes = [*_change("chair_i", one.chair_i_change), *_change("recall", one.recall_change)]
        table.add_row(one.name, value_text("chair_i", one.chair_i, {}), value_text("recall", one.recall, {}), *changes)
    printer.add(table)
    printer.line("Rates in %; intervals of 95 %, by a bootstrap over images.")


def _change(name: str, change: Difference | None) -> tuple[str, str]:
    if change is None:
        return "", ""
    return value_text(name, change.value, {}, sign=True), interval_text(name, change.interval, {}, sign=True)
