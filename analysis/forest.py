"""Every method's difference to the baseline, with its interval, in one picture."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from ._benchmarks import SampleRecord, SampleTable, compare_tables, holm, yes_no_table
from .drawing import floats
from .finding import Finding
from .load import Run
from .pairs import Pair, yes_no_pairs
from .resampling import sign_flip_p
from .style import GREY, PAGE_WIDTH, Plot, look, new_figure, paper_look
from .tables import Cell, Table, by_model

METRICS = ("hallucination_rate", "accuracy", "recall", "yes_ratio", "auc")
DRAWN = ("hallucination_rate", "accuracy")
LABELS = {"hallucination_rate": "hallucination rate", "yes_ratio": "yes-ratio", "auc": "AUC"}


def forest_table(pairs: Sequence[Pair]) -> Table:
    """A row per pair and metric: method minus baseline on the same samples.

    p swaps the two runs image by image; Holm's correction is over all pairs, for each metric by itself.
    """
    lines: list[list[Cell]] = []
    for pair in pairs:
        before, after = yes_no_table(pair.before), yes_no_table(pair.after)
        found = compare_tables(before, after)
        for metric in METRICS:
            if metric not in found.differences:
                continue
            difference = found.differences[metric]
            lines.append(
                [
                    pair.model, pair.task, pair.row, metric, difference.value,
                    *(difference.interval or (None, None)), metric_p(before, after, metric), None, None,
                    found.wrong_to_right, found.right_to_wrong, found.n, found.images,
                ]
            )  # fmt: skip
    for metric in METRICS:
        tested = [line for line in lines if line[3] == metric and line[7] is not None]
        for line, p in zip(tested, holm([float(line[7] or 0) for line in tested]), strict=True):
            line[8:10] = [p, p < 0.05]
    return Table(
        name="forest",
        title="Method minus baseline on the same questions",
        columns=(
            "model", "task", "row", "metric", "difference", "difference_low", "difference_high", "p", "p_holm",
            "survives", "wrong→right", "right→wrong", "questions", "images",
        ),
        rows=tuple(tuple(line) for line in lines),
        notes=(
            "Differences of fractions. Intervals: 95 %, the same images drawn for both. p: both runs swapped at random "
            "image by image; p holm: corrected for all rows of the metric; survives: below 0.05.",
        ),
    )  # fmt: skip


def metric_p(before: SampleTable, after: SampleTable, metric: str) -> float | None:
    """The p of `sign_flip_p` for a metric of two tables of the same samples; None for one that is no ratio of sums."""
    if metric not in before.metrics:
        return None
    column = before.metrics.index(metric)
    one, other = ((table.numerators[:, column], table.denominators[:, column]) for table in (before, after))
    return sign_flip_p(one, other, before.images)


def compare_p(before: Sequence[SampleRecord], after: Sequence[SampleRecord], metric: str) -> float | None:
    """`metric_p` of two runs' samples, the same ones in the same order."""
    return metric_p(yes_no_table(before), yes_no_table(after), metric)


def plot_forest(table: Table) -> Plot:
    """The rows of one model: a panel per metric that is drawn, a line per task and method; what survives is filled."""
    records = [row for row in table.records() if row["metric"] in DRAWN]
    names = list(dict.fromkeys((str(row["task"]), str(row["row"])) for row in records))
    places = {name: -index for index, name in enumerate(names)}
    tasks = list(dict.fromkeys(task for task, _ in names))
    with paper_look():
        height = 0.7 + 0.15 * len(names)
        figure, axes = new_figure(width=PAGE_WIDTH, height=height, columns=len(DRAWN), sharey=True)
        for axis, metric in zip(axes, DRAWN, strict=True):
            axis.axvline(0, color=GREY, linewidth=0.8)
            for row in (row for row in records if row["metric"] == metric):
                y = places[str(row["task"]), str(row["row"])]
                style = look(tasks.index(str(row["task"])))
                value, low, high = (100 * floats([row], f"difference{end}") for end in ("", "_low", "_high"))
                axis.plot([*low, *high], [y, y], color=style.color, linewidth=1)
                fill = style.color if row["survives"] else "white"
                axis.plot(value, [y], color=style.color, marker=style.marker, markerfacecolor=fill)
            axis.set_xlabel(f"Δ {LABELS.get(metric, metric)} (points)")
        axes[0].set_yticks(list(places.values()), labels=[f"{task} · {row}" for task, row in names], fontsize=6)
        axes[0].set_ylim(0.3 - len(names), 0.7)
    caption = "Method minus baseline; lines: 95 % intervals, images resampled. Filled: survives Holm's correction."
    return Plot(figure=figure, data=table, caption=caption)


def forest_findings(runs: Sequence[Run]) -> list[Finding]:
    """The forest of all pairs of yes/no tasks.

    Raises:
        NothingToShowError: where there is no pair.
    """
    pairs, problems = yes_no_pairs(runs)
    table = forest_table(pairs)
    others = sorted({run.record.task for run in runs if not run.is_yes_no})
    told = [
        f"{', '.join(others)}: no paired differences, as records hold no grade per caption; benchmarks.run prints them."
    ]
    tested = [row for row in table.records() if row["metric"] in DRAWN and row["p_holm"] is not None]
    words = [
        f"{sum(row['survives'] is True for row in tested)} of {len(tested)} differences in hallucination rate and "
        "accuracy survive Holm's correction."
    ]
    plots = tuple(functools.partial(plot_forest, part) for part in by_model(table))
    return [
        Finding(
            title="paired differences",
            tables=(table,),
            plots=plots,
            notes=(*words, *(told if others else []), *problems),
        )
    ]
