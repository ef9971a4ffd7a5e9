"""Threshold or discrimination: a method that says no more often moves along its curve; a better one lifts the curve.

Curves are of the margin, logit of yes minus logit of no. Accuracy at matched yes-ratio gives each method the threshold
at which it says yes as often as the baseline does, so that nothing but the ranking is left.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._benchmarks import (
    Bounds,
    SampleRecord,
    auc,
    auc_interval,
    bootstrap_weights,
    compare_yes_no,
    percentile_interval,
)
from ..drawing.panels import floats, legend_below, panel_grid
from ..drawing.style import GREY, Plot, look, paper_look
from ..drawing.tables import Cell, Table, by_model
from ..reading.load import NothingToShowError, Run
from ..reading.pairs import Pair, yes_no_pairs
from .finding import Finding

_Floats = NDArray[np.float64]
_COLUMNS = (
    "model", "task", "row", "false_positive_rate", "true_positive_rate", "auc", "auc_low", "auc_high", "auc_change",
    "auc_change_low", "auc_change_high", "yes_ratio_change", "yes_ratio_change_low", "yes_ratio_change_high",
    "accuracy_change", "accuracy_change_low", "accuracy_change_high", "matched_accuracy_change",
    "matched_accuracy_change_low", "matched_accuracy_change_high", "reading",
)  # fmt: skip


NOTHING = "no difference found"


class Curve(NamedTuple):
    """A ROC curve: its corners from (0, 0) to (1, 1), ties in one step; and where the answers themselves lie."""

    false_positive_rate: _Floats
    true_positive_rate: _Floats
    operating_point: tuple[float, float]


def roc_curve(samples: Sequence[SampleRecord]) -> Curve | None:
    """The curve of samples that all have a margin; None where one has none, or a class is empty.

    The operating point is (HR, recall) of the parsed answers.
    """
    margins, positives = _margins(samples)
    outcomes = [sample.outcome for sample in samples]
    absent, present = (sum(outcomes.count(name) for name in pair) for pair in (("fp", "tn"), ("tp", "fn")))
    if np.isnan(margins).any() or not 0 < positives.sum() < len(positives) or not absent or not present:
        return None
    order = np.argsort(-margins, kind="stable")
    last = np.flatnonzero(np.append(np.diff(margins[order]) != 0, True))
    rates = []
    for of in (~positives, positives):
        counted = np.cumsum(of[order])[last] / of.sum()
        rates.append(np.concatenate([[0.0], counted]))
    return Curve(rates[0], rates[1], (outcomes.count("fp") / absent, outcomes.count("tp") / present))


def accuracy_at_yes_ratio(margins: _Floats, positives: NDArray[np.bool_], ratios: _Floats, weights: _Floats) -> _Floats:
    """Accuracy where the largest margins get yes, as many as the ratio says; for each row of weights.

    Of samples with one margin that are not all needed, each gets yes in equal part: their expected accuracy.

    Args:
        margins: (n,) finite.
        positives: (n,) which answers should be yes.
        ratios: (rows,) share of yes, 0 to 1.
        weights: (rows, n) how often each sample counts.

    Returns:
        (rows,) fractions.
    """
    order = np.argsort(-margins, kind="stable")
    ordered, right = weights[:, order], positives[order]
    starts = np.flatnonzero(np.append(True, np.diff(margins[order]) != 0))
    yes, no = (np.add.reduceat(ordered * of, starts, axis=1) for of in (right, ~right))
    size, total = yes + no, ordered.sum(axis=1)
    before = np.cumsum(size, axis=1) - size
    share = (ratios * total)[:, None] - before
    share = np.clip(np.divide(share, size, out=np.zeros_like(size), where=size > 0), 0, 1)
    return np.asarray((share * yes + (1 - share) * no).sum(axis=1) / total)


def matched_change(pair: Pair) -> tuple[float, Bounds]:
    """Accuracy of the method at the baseline's yes-ratio, minus the baseline's; the images drawn for both."""
    (before, positives), (after, _) = _margins(pair.before), _margins(pair.after)
    said = np.array([sample.outcome in ("tp", "fp") for sample in pair.before], dtype=np.float64)

    def change(weights: _Floats) -> _Floats:
        ratios = weights @ said / weights.sum(axis=1)
        one, other = (accuracy_at_yes_ratio(of, positives, ratios, weights) for of in (before, after))
        return other - one

    parts = bootstrap_weights([sample.image for sample in pair.before])
    drawn = np.concatenate([np.empty(0), *map(change, parts)])
    return float(change(np.ones((1, len(said))))[0]), percentile_interval(drawn) or (None, None)


def roc_tables(pairs: Sequence[Pair]) -> tuple[Table, Table, list[str]]:
    """Operating points with their reading, a row per run; the curves' corners; and sentences.

    Raises:
        NothingToShowError: where no pair has margins.
    """
    points: list[tuple[Cell, ...]] = []
    corners: list[tuple[Cell, ...]] = []
    notes: list[str] = []
    drawn: set[tuple[str, str, str]] = set()
    for pair in pairs:
        curves = [roc_curve(samples) for samples in (pair.before, pair.after)]
        if curves[0] is None or curves[1] is None:
            notes.append(
                f"{pair.model} on {pair.task}, {pair.row}: no ROC curve, as margins are missing or all questions have "
                "one answer."
            )
            continue
        for row, samples, curve in (
            # The whole baseline, whatever part of it a method shares: one curve for all methods.
            (pair.baseline_row, pair.baseline.samples, roc_curve(pair.baseline.samples)),
            (pair.row, pair.after, curves[1]),
        ):
            where = (pair.model, pair.task, row)
            if where in drawn or curve is None:
                continue
            drawn.add(where)
            corners += [
                (*where, float(x), float(y), False)
                for x, y in zip(curve.false_positive_rate, curve.true_positive_rate, strict=True)
            ]
            corners.append((*where, *curve.operating_point, True))
            margins, positives = _margins(samples)
            bounds = auc_interval(margins, positives, [one.image for one in samples]) or (None, None)
            changes = _changes(pair) if samples is pair.after else [None] * 13
            points.append((*where, *curve.operating_point, auc(margins, positives), *bounds, *changes))
    if not points:
        raise NothingToShowError(
            f"no ROC curve: got {len(pairs)} pairs, none with a margin for every sample of both classes; expected "
            "margins, which benchmarks.run records. Answers scored from elsewhere have none. " + notes[0]
        )
    table = Table(
        name="operating_points",
        title="Moved threshold or better ranking: operating points, AUC, and accuracy at the baseline's yes-ratio",
        columns=_COLUMNS,
        rows=tuple(points),
        notes=(
            "Changes are to the baseline, on the same questions. Intervals: 95 %, images resampled. Matched accuracy: "
            "at the threshold with the baseline's share of yes.",
        ),
    )
    curves_table = Table(
        name="roc",
        title="ROC curves of the yes/no margin",
        columns=("model", "task", "row", "false_positive_rate", "true_positive_rate", "operating_point"),
        rows=tuple(corners),
    )
    return table, curves_table, notes


def reading(auc_change: Bounds, yes_change: Bounds) -> str:
    """What two intervals say together."""
    if auc_change[0] is None or auc_change[1] is None or yes_change[0] is None or yes_change[1] is None:
        return "too few images to tell"
    moved = "says yes more often" if yes_change[0] > 0 else "says yes less often" if yes_change[1] < 0 else ""
    ranks = "ranks better" if auc_change[0] > 0 else "ranks worse" if auc_change[1] < 0 else ""
    if ranks:
        return f"{ranks}, and {moved}" if moved else ranks
    return f"moved threshold: {moved}, no difference in ranking found" if moved else NOTHING


def _changes(pair: Pair) -> list[Cell]:
    found = compare_yes_no(pair.before, pair.after).differences
    cells: list[Cell] = []
    bounds: dict[str, Bounds] = {}
    for name in ("auc", "yes_ratio", "accuracy"):
        bounds[name] = found[name].interval or (None, None)
        cells += [found[name].value, *bounds[name]]
    value, matched = matched_change(pair)
    return [*cells, value, *matched, reading(bounds["auc"], bounds["yes_ratio"])]


def _margins(samples: Sequence[SampleRecord]) -> tuple[_Floats, NDArray[np.bool_]]:
    margins = [math.nan if sample.margin is None else sample.margin for sample in samples]
    return np.array(margins, dtype=np.float64), np.array([sample.target == "yes" for sample in samples], dtype=bool)


def plot_roc(curves: Table) -> Plot:
    """A panel per model and task: a curve per method, its operating point marked."""
    records = list(curves.records())
    panels = list(dict.fromkeys((str(row["model"]), str(row["task"])) for row in records))
    rows = list(dict.fromkeys(str(row["row"]) for row in records))
    with paper_look():
        figure, axes = panel_grid(len(panels), ratio=1.05)
        for axis, (model, task) in zip(axes, panels, strict=True):
            axis.plot([0, 1], [0, 1], color=GREY, linewidth=0.6)
            axis.set(title=f"{model} · {task}", xlabel="hallucination rate", ylabel="recall", aspect="equal")
            for index, name in enumerate(rows):
                own = [row for row in records if (row["model"], row["task"], row["row"]) == (model, task, name)]
                corners, point = ([row for row in own if row["operating_point"] is at] for at in (False, True))
                if not own:
                    continue
                style = look(index)
                x, y = floats(corners, "false_positive_rate"), floats(corners, "true_positive_rate")
                axis.plot(x, y, color=style.color, linestyle=style.linestyle)
                x, y = floats(point, "false_positive_rate"), floats(point, "true_positive_rate")
                axis.plot(x, y, color=style.color, marker=style.marker, linestyle="none", markersize=6)
                # The legend shows a method once, with both its line and its marker.
                axis.plot([], [], label=name, **style._asdict())
        legend_below(figure)
    caption = "ROC curves of the yes/no margin; the marker is where the answers themselves lie."
    return Plot(figure=figure, data=curves, caption=caption)


def roc_findings(runs: Sequence[Run]) -> list[Finding]:
    """Curves, operating points and what they say.

    Raises:
        NothingToShowError: where there is no pair, or no margins.
    """
    pairs, problems = yes_no_pairs(runs)
    table, curves, notes = roc_tables(pairs)
    words = [
        f"{row['model']} on {row['task']}, {row['row']}: {row['reading']}."
        for row in table.records()
        if row["reading"] not in (None, NOTHING)
    ]
    plots = tuple(functools.partial(plot_roc, part) for part in by_model(curves))
    notes = [*words, *notes, *problems]
    return [
        Finding(title="threshold or discrimination", tables=(table,), data=(curves,), plots=plots, notes=tuple(notes))
    ]
