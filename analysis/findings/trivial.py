"""Every method beside what anyone gets without one: a method that a trivial change beats is said to be."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._benchmarks import LEVEL, Interval, percentile_interval, resampled_ratios
from ..drawing.panels import floats, legend_below, panel_grid
from ..drawing.style import GREY, Plot, look, paper_look
from ..drawing.tables import Cell, Table, by_model
from ..reading.load import Run
from ..reading.pairs import Pair
from ..reading.trivial import TrivialRow, other_samplings, plain_row, trivial_rows
from .forest import LABELS

BELOW = "below: a trivial change beats it"
ON = "no better than a trivial change"
ABOVE = "above: no trivial change does as well"
BEYOND = "says more than any trivial change"
UNCLEAR = "not told apart"
FEW = "too few images to tell"
"""Where a method lies, of the frontier that trivial changes make. A row is as good as another where its rate is no
higher and its recall no lower."""
_COLUMNS = (
    "model", "task", "row", "metric", "rate", "recall", "trivial", "rate_change", "rate_change_low",
    "rate_change_high", "recall_change", "recall_change_low", "recall_change_high", "beaten", "frontier", "samples",
)  # fmt: skip

_Floats = NDArray[np.float64]


class Beside(NamedTuple):
    """A method beside the trivial changes of its baseline.

    Attributes:
        metric: name of the rate, which is to be low.
        rate: the method's.
        recall: likewise; it is to be high.
        nearest: label of the trivial change with the lowest rate among those that find as much; where none does, of the
            one that finds most.
        rate_change: method minus that one.
        rate_interval: of the change; None for a single image.
        recall_change: likewise.
        recall_interval: likewise.
        beaten: share of resamples in which a trivial change is at least as good and better in one of the two; None for
            a single image.
        frontier: one of the words above.
    """

    metric: str
    rate: float
    recall: float
    nearest: str
    rate_change: float
    rate_interval: Interval | None
    recall_change: float
    recall_interval: Interval | None
    beaten: float | None
    frontier: str


def beside_trivial(pair: Pair, runs: Sequence[Run]) -> Beside | None:
    """A pair's method beside trivial changes of its baseline, all on the samples of both.

    Args:
        pair: of graded captions, or of yes/no answers.
        runs: where the same model, sampled otherwise, is looked for.

    Returns:
        None where rate or recall is undefined, of the method or of the baseline.
    """
    others = other_samplings(pair.baseline, runs, [sample.id for sample in pair.before])
    rows = [*trivial_rows(pair.before, others), plain_row(pair.row, pair.after)]
    values, drawn = _values(rows), _drawn(rows, [sample.image for sample in pair.before])
    trivial, method = values[:-1], values[-1]
    if np.isnan(method).any() or np.isnan(trivial[0]).any():
        return None
    # The lowest rate among those that find as much; where none does, the one that finds most.
    enough = trivial[:, 1] >= method[1]
    order = np.lexsort((-trivial[:, 1], trivial[:, 0])) if enough.any() else np.argsort(-trivial[:, 1], kind="stable")
    nearest = next(int(row) for row in order if enough[row] or not enough.any())
    change = method - trivial[nearest]
    moved = drawn[:, -1] - drawn[:, nearest]
    better, as_good = (_beaten(drawn[:, :-1], drawn[:, -1:], strictly) for strictly in (True, False))
    return Beside(
        metric="chair_i" if pair.before[0].found is not None else "hallucination_rate",
        rate=float(method[0]),
        recall=float(method[1]),
        nearest=rows[nearest].label,
        rate_change=float(change[0]),
        rate_interval=percentile_interval(moved[:, 0]),
        recall_change=float(change[1]),
        recall_interval=percentile_interval(moved[:, 1]),
        beaten=float(better.mean()) if len(drawn) else None,
        frontier=_where(better, as_good, more=not enough.any() and bool(method[0] > trivial[0, 0])),
    )


def _values(rows: Sequence[TrivialRow]) -> _Floats:
    """Rate and recall of each row, (rows, 2)."""
    above, below = (np.stack([of.sum(axis=0) for of in part]) for part in zip(*_parts(rows), strict=True))
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)


def _drawn(rows: Sequence[TrivialRow], images: Sequence[str]) -> _Floats:
    """The same of each resample, (resamples, rows, 2)."""
    above, below = (np.concatenate(part, axis=1) for part in zip(*_parts(rows), strict=True))
    return resampled_ratios(above, below, images).reshape(-1, len(rows), 2)


def _parts(rows: Sequence[TrivialRow]) -> list[tuple[_Floats, _Floats]]:
    return [(row.above, row.below) for row in rows]


def _beaten(trivial: _Floats, method: _Floats, strictly: bool) -> NDArray[np.bool_]:
    """Whether some trivial row is at least as good, (..., rows, 2) and (..., 1, 2) → (...,)."""
    rate, recall = trivial[..., 0] - method[..., 0], trivial[..., 1] - method[..., 1]
    good = (rate <= 0) & (recall >= 0)
    return np.asarray((good & ((rate < 0) | (recall > 0)) if strictly else good).any(axis=-1))


def _where(better: NDArray[np.bool_], as_good: NDArray[np.bool_], *, more: bool) -> str:
    """In words, from whether a trivial row is better, and whether one is as good, in each resample."""
    rare = (1 - LEVEL) / 2
    if not len(better):
        return FEW
    if better.mean() >= 1 - rare:
        return BELOW
    if as_good.mean() >= 1 - rare:
        return ON
    if as_good.mean() > rare:
        return UNCLEAR
    return BEYOND if more else ABOVE


def trivial_table(found: Sequence[tuple[Pair, Beside]]) -> Table:
    """A row per pair: the method, the trivial change nearest to it, and on which side of the frontier it lies."""
    lines: list[tuple[Cell, ...]] = [
        (
            pair.model, pair.task, pair.row, one.metric, one.rate, one.recall, one.nearest, one.rate_change,
            *(one.rate_interval or (None, None)), one.recall_change, *(one.recall_interval or (None, None)), one.beaten,
            one.frontier, len(pair.before),
        )
        for pair, one in found
    ]  # fmt: skip
    return Table(
        name="trivial",
        title="Each method beside the trivial change nearest to it",
        columns=_COLUMNS,
        rows=tuple(lines),
        percent=frozenset(name for name in _COLUMNS if name.startswith(("rate", "recall")) or name == "beaten"),
        notes=(
            "Trivial changes of the baseline's own output: its captions cut after the first sentences or words, another"
            " threshold of its yes/no margin, and other runs of it that differ in sampling. Nearest: the lowest rate "
            "among those with the method's recall or more; changes are the method's minus its. Beaten: share of "
            "resamples of images in which some trivial change is at least as good in both and better in one; from "
            "97.5 % on the method is below the frontier. Intervals: 95 %.",
        ),
    )  # fmt: skip


def points_table(pairs: Sequence[Pair], runs: Sequence[Run]) -> Table:
    """Rate and recall of every trivial change of each baseline, and of every method beside it."""
    lines: list[tuple[Cell, ...]] = []
    drawn: set[tuple[str, str, str]] = set()
    for pair in pairs:
        others = other_samplings(pair.baseline, runs, [sample.id for sample in pair.before])
        where = (pair.model, pair.task, pair.baseline_row)
        rows = [("method", plain_row(pair.row, pair.after))]
        if where not in drawn:
            rows += [("trivial", row) for row in trivial_rows(pair.before, others)]
        drawn.add(where)
        lines += [
            (pair.model, pair.task, kind, row.label, *map(float, point))
            for (kind, row), point in zip(rows, _values([row for _, row in rows]), strict=True)
        ]
    return Table(
        name="trivial_points",
        title="Rate and recall of methods and of trivial changes",
        columns=("model", "task", "kind", "row", "rate", "recall"),
        rows=tuple(lines),
        percent=frozenset({"rate", "recall"}),
    )


def plot_trivial(table: Table, metrics: dict[str, str]) -> Plot:
    """A panel per task: trivial changes as small dots over the line of the lowest of them, methods as markers.

    Args:
        table: of one model.
        metrics: task → name of its rate.
    """
    records = list(table.records())
    tasks = list(dict.fromkeys(str(row["task"]) for row in records))
    methods = list(dict.fromkeys(str(row["row"]) for row in records if row["kind"] == "method"))
    with paper_look():
        figure, axes = panel_grid(len(tasks))
        for axis, task in zip(axes, tasks, strict=True):
            own = [row for row in records if row["task"] == task]
            trivial = [row for row in own if row["kind"] == "trivial"]
            points = 100 * np.stack([floats(trivial, name) for name in ("recall", "rate")], axis=1)
            points = points[np.isfinite(points).all(axis=1)]
            recall, rate = points[np.argsort(points[:, 0], kind="stable")].T
            axis.plot(recall, rate, color=GREY, marker=".", markersize=3, linestyle="none", label="trivial changes")
            # The lowest rate of all that find as much or more.
            lowest = np.minimum.accumulate(rate[::-1])[::-1]
            axis.step(recall, lowest, where="pre", color=GREY, linewidth=0.8)
            for row in (row for row in own if row["kind"] == "method"):
                style = look(methods.index(str(row["row"])))
                point = [100 * floats([row], name) for name in ("recall", "rate")]
                axis.plot(*point, color=style.color, marker=style.marker, linestyle="none", label=str(row["row"]))
            axis.set(title=task, xlabel="recall (%)", ylabel=f"{LABELS[metrics[task]]} (%)")
        legend_below(figure)
    caption = "Lower and further right is better; a method above the line makes up more than a trivial change does."
    return Plot(figure=figure, data=table, caption=caption)


def trivial_plots(found: Sequence[tuple[Pair, Beside]], runs: Sequence[Run]) -> list[functools.partial[Plot]]:
    """What draws the figures, one per model."""
    table = points_table([pair for pair, _ in found], runs)
    metrics = {pair.task: one.metric for pair, one in found}
    return [functools.partial(plot_trivial, part, metrics) for part in by_model(table)]
