"""Every method's difference to the baseline, with its interval, in one picture."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .._benchmarks import (
    PValue,
    SampleRecord,
    SampleTable,
    caption_table,
    compare_tables,
    holm,
    sign_flip_p,
    yes_no_table,
)
from ..drawing.panels import floats
from ..drawing.style import COLUMN_WIDTH, GREY, PAGE_WIDTH, Plot, look, new_figure, paper_look
from ..drawing.tables import Cell, Table, by_model
from ..reading.load import NothingToShowError, Run
from ..reading.pairs import Pair, caption_pairs, find_pairs, yes_no_pairs
from .finding import Finding

LABELS = {"hallucination_rate": "hallucination rate", "yes_ratio": "yes-ratio", "auc": "AUC", "chair_i": "CHAIR-i"}
SWAPS = (
    "p: both runs swapped image by image, all ways where they are few, else at random with the standard error p error"
)
"""What a note of a table says of its p."""


class Kind(NamedTuple):
    """What is compared.

    Attributes:
        name: of the table.
        what: of what there are differences.
        metrics: names of the rows.
        drawn: those that the picture shows.
        table: what samples contribute to them.
    """

    name: str
    what: str
    metrics: tuple[str, ...]
    drawn: tuple[str, ...]
    table: Callable[[Sequence[SampleRecord]], SampleTable]


YES_NO = Kind(
    "forest",
    "questions",
    ("hallucination_rate", "accuracy", "recall", "yes_ratio", "auc"),
    ("hallucination_rate", "accuracy"),
    yes_no_table,
)
CAPTIONS = Kind("forest_captions", "captions", ("chair_i", "recall"), ("chair_i", "recall"), caption_table)


def forest_table(pairs: Sequence[Pair], kind: Kind = YES_NO) -> Table:
    """A row per pair and metric: method minus baseline on the same samples.

    p swaps the two runs image by image; Holm's correction is over all pairs, for each metric by itself.
    """
    lines: list[list[Cell]] = []
    for pair in pairs:
        before, after = kind.table(pair.before), kind.table(pair.after)
        found = compare_tables(before, after)
        for metric in kind.metrics:
            if metric not in found.differences:
                continue
            difference = found.differences[metric]
            lines.append(
                [
                    pair.model, pair.task, pair.row, metric, difference.value,
                    *(difference.interval or (None, None)), *(metric_p(before, after, metric) or (None, None)), None,
                    None, found.wrong_to_right, found.right_to_wrong, found.n, found.images,
                ]
            )  # fmt: skip
    for metric in kind.metrics:
        tested = [line for line in lines if line[3] == metric and line[7] is not None]
        for line, p in zip(tested, holm([float(line[7] or 0) for line in tested]), strict=True):
            line[9:11] = [p, p < 0.05]
    return Table(
        name=kind.name,
        title=f"Method minus baseline on the same {kind.what}",
        columns=(
            "model", "task", "row", "metric", "difference", "difference_low", "difference_high", "p", "p_error",
            "p_holm", "survives", "wrong→right", "right→wrong", kind.what, "images",
        ),
        rows=tuple(tuple(line) for line in lines),
        percent=frozenset({"difference", "difference_low", "difference_high"}),
        notes=(
            "Differences in percentage points, that of AUC too. Intervals: 95 %, the same images drawn for both. "
            f"{SWAPS}; p holm: corrected for all rows of the metric; survives: below 0.05."
            + (" CHAIR-i and recall by the task's own rule; of AMBER they are chair and cover. Right: a caption "
            "without a hallucinated mention." if kind is CAPTIONS else ""),
        ),
    )  # fmt: skip


def metric_p(before: SampleTable, after: SampleTable, metric: str) -> PValue | None:
    """The p of `sign_flip_p` for a metric of two tables of the same samples; None for one that is no ratio of sums."""
    if metric not in before.metrics:
        return None
    column = before.metrics.index(metric)
    one, other = ((table.numerators[:, column], table.denominators[:, column]) for table in (before, after))
    return sign_flip_p(one, other, before.images)


def compare_p(before: Sequence[SampleRecord], after: Sequence[SampleRecord], metric: str) -> PValue | None:
    """`metric_p` of two runs' answers, to the same questions in the same order."""
    return metric_p(yes_no_table(before), yes_no_table(after), metric)


def plot_forest(table: Table, kind: Kind = YES_NO) -> Plot:
    """The rows of one model: a panel per metric that is drawn, a line per task and method; what survives is filled."""
    records = [row for row in table.records() if row["metric"] in kind.drawn]
    names = list(dict.fromkeys((str(row["task"]), str(row["row"])) for row in records))
    places = {name: -index for index, name in enumerate(names)}
    tasks = list(dict.fromkeys(task for task, _ in names))
    with paper_look():
        beside, stacked = (
            new_figure(width=width, height=rows * (0.7 + 0.15 * len(names)), rows=rows, columns=columns, **shared)
            for width, rows, columns, shared in (
                (PAGE_WIDTH, 1, len(kind.drawn), {"sharey": True}),
                (COLUMN_WIDTH, len(kind.drawn), 1, {}),
            )
        )
        for axis, metric in (*zip(beside[1], kind.drawn, strict=True), *zip(stacked[1], kind.drawn, strict=True)):
            axis.axvline(0, color=GREY, linewidth=0.8)
            for row in (row for row in records if row["metric"] == metric):
                y = places[str(row["task"]), str(row["row"])]
                style = look(tasks.index(str(row["task"])))
                value, low, high = (100 * floats([row], f"difference{end}") for end in ("", "_low", "_high"))
                axis.plot([*low, *high], [y, y], color=style.color, linewidth=1)
                fill = style.color if row["survives"] else "white"
                axis.plot(value, [y], color=style.color, marker=style.marker, markerfacecolor=fill)
            axis.set_xlabel(f"Δ {LABELS.get(metric, metric)} (points)")
        for axis in (beside[1][0], *stacked[1]):
            axis.set_yticks(list(places.values()), labels=[f"{task} · {row}" for task, row in names], fontsize=6)
            axis.set_ylim(0.3 - len(names), 0.7)
    caption = "Method minus baseline; lines: 95 % intervals, images resampled. Filled: survives Holm's correction."
    return Plot(figure=beside[0], data=table, caption=caption, narrow=stacked[0])


def forest_findings(runs: Sequence[Run]) -> list[Finding]:
    """The forests of all pairs: of yes/no tasks, and of captions that are graded.

    Raises:
        NothingToShowError: where there is no pair.
    """
    found = find_pairs(runs)
    captions = caption_pairs(found)
    yes_no = [pair for pair in found.pairs if pair.baseline.is_yes_no]
    if not yes_no and not captions.pairs:
        if captions.problems:
            raise NothingToShowError(captions.problems[0])
        yes_no = list(yes_no_pairs(runs).pairs)  # says what is missing
    tables = [
        (kind, forest_table(pairs, kind)) for kind, pairs in ((YES_NO, yes_no), (CAPTIONS, captions.pairs)) if pairs
    ]
    words = [_surviving(table, kind) for kind, table in tables]
    graded = {pair.task for pair in captions.pairs}
    others = sorted({run.record.task for run in runs if not run.is_yes_no and run.record.task not in graded})
    if others:
        words.append(
            f"{', '.join(others)}: no paired differences here, as no two runs hold grades of the same samples."
        )
    return [
        Finding(
            title="paired differences",
            tables=tuple(table for _, table in tables),
            plots=tuple(
                functools.partial(plot_forest, part, kind) for kind, table in tables for part in by_model(table)
            ),
            notes=(*words, *found.problems, *captions.problems),
        )
    ]


def _surviving(table: Table, kind: Kind) -> str:
    tested = [row for row in table.records() if row["metric"] in kind.drawn and row["p_holm"] is not None]
    drawn = " and ".join(LABELS.get(name, name) for name in kind.drawn)
    surviving = sum(row["survives"] is True for row in tested)
    return f"{surviving} of {len(tested)} differences in {drawn} of {kind.what} survive Holm's correction."
