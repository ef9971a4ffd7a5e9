"""Does a method help on a user's own photos? By what the user has marked in them, photo by photo."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._benchmarks import (
    Interval,
    SampleTable,
    images_to_tell,
    percentile_interval,
    ratio_intervals,
    ratios,
    resampled_ratios,
)
from ..drawing.tables import Cell, Table
from ..reading.load import NothingToShowError
from ..reading.marks import Marked
from .finding import Finding

_METRICS = ("made_up", "coverage")
_WORDS = {
    "made_up": ("names fewer things that are not there", "names more things that are not there"),
    "coverage": ("leaves more out of what is there", "names more of what is there"),
}
"""Of each metric, what a lower one means and a higher one."""


class Change(NamedTuple):
    """What a method changes of a metric, on photos that both describe.

    Attributes:
        value: method minus first method.
        interval: 95 %, bootstrap over photos; None where there is none.
        more: how many more photos would tell a difference of this size from none; 0 where it is told, None where none
            was seen.
    """

    value: float
    interval: Interval | None
    more: int | None


def marks_finding(marked: Marked) -> Finding:
    """Each method's rate of made-up mentions and its coverage, and what they differ from the first method's.

    Raises:
        NothingToShowError: where nothing that a text mentions is marked.
    """
    rates, changes, notes = [], [], []
    methods = marked.methods
    for method in methods:
        photos = marked.photos([method])
        table = marked.table(method, photos)
        if photos and table.denominators.any():
            rates.append((method, len(photos), int(table.denominators[:, 0].sum()), *_rates(table)))
    if not rates:
        raise NothingToShowError("no mark is about an object that a text mentions: mark some on the page first")
    first, *others = (str(row[0]) for row in rates)
    for method in others:
        photos = marked.photos([first, method])
        found = changes_of(marked.table(first, photos), marked.table(method, photos))
        cells = (cell for name in _METRICS for cell in _cells(found.get(name)))
        changes.append((method, len(photos), *cells))
        notes += [_sentence(method, first, name, change) for name, change in found.items()]
    if marked.lost:
        notes.append(f"{marked.lost} marks are about objects that no text mentions, and count for nothing.")
    notes.append("Objects that are there and that no method mentions are in no number: coverage is of what one found.")
    bounds = [end for name in _METRICS for end in (name, f"{name}_low", f"{name}_high")]
    more = [end for name in _METRICS for end in (name, f"{name}_low", f"{name}_high", f"{name}_more_photos")]
    tables = [
        Table(
            name="marks",
            title="What each method says of the marked photos, with 95 % intervals over photos",
            columns=("method", "photos", "mentions", *bounds),
            rows=tuple(rates),
            percent=frozenset(_METRICS),
        )
    ]
    if changes:
        tables.append(
            Table(
                name="marks_differences",
                title=f"Differences from {first} on the same photos, and how many more photos would tell them",
                columns=("method", "photos", *more),
                rows=tuple(changes),
                percent=frozenset(_METRICS),
            )
        )
    return Finding(title="marks", tables=tuple(tables), notes=tuple(notes))


def changes_of(first: SampleTable, other: SampleTable) -> dict[str, Change]:
    """Metric → what another method changes, photo by photo; a metric that is undefined in either is left out.

    Args:
        first: of the method that is compared with.
        other: of the same photos.
    """
    values = [ratios(table) for table in (first, other)]
    drawn = [resampled_ratios(table.numerators, table.denominators, table.images) for table in (first, other)]
    changes: dict[str, Change] = {}
    for column, name in enumerate(first.metrics):
        before, after = values[0][name], values[1][name]
        if before is None or after is None:
            continue
        differences = drawn[1][:, column] - drawn[0][:, column]
        interval = percentile_interval(differences)
        defined = differences[np.isfinite(differences)]
        if interval is None:
            more = None
        elif interval.low > 0 or interval.high < 0:
            more = 0
        else:
            needed = images_to_tell(after - before, float(defined.std()), len(first.images))
            more = None if needed is None else max(1, needed - len(first.images))
        changes[name] = Change(after - before, interval, more)
    return changes


def _rates(table: SampleTable) -> list[Cell]:
    values, bounds = ratios(table), ratio_intervals(table)
    return [cell for name in table.metrics for cell in (values[name], *(bounds.get(name) or (None, None)))]


def _cells(change: Change | None) -> tuple[Cell, ...]:
    return (None,) * 4 if change is None else (change.value, *(change.interval or (None, None)), change.more)


def _sentence(method: str, first: str, name: str, change: Change) -> str:
    what = name.replace("_", "-")
    if change.value == 0:
        return f"{method} and {first} do not differ in {what} on these photos."
    size = f"{100 * change.value:+.1f} points"
    if change.interval is None:
        return f"{method} against {first}, {what}: {size}; too few photos for an interval."
    low, high = (100 * bound for bound in change.interval)
    said = f"{size}, 95 % {low:+.1f} to {high:+.1f}"
    if change.more == 0:
        return f"{method} {_WORDS[name][change.value > 0]} than {first} ({what} {said})."
    return (
        f"{method} and {first} cannot be told apart in {what} ({said}): "
        f"about {change.more:,} more photos would tell a difference of this size."
    )
