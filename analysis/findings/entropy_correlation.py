"""Entropy and hallucination, correlated per model, pooled, and within models: pooling mixes in how models differ."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .._benchmarks import RESAMPLES
from ..drawing.tables import Cell, Table
from ..reading.rows import AbsentRows
from ..reading.trace import MEASURES
from ..statistics.correlation import correlate

POOLED, WITHIN = "pooled", "within models"


def entropy_correlations(rows: AbsentRows, resamples: int = RESAMPLES) -> tuple[Table, list[str]]:
    """Pearson and Spearman over questions, a row per scope and kind; and sentences, the signs' comparison among them.

    Args:
        rows: questions about absent objects.
        resamples: of each bootstrap and permutation.
    """
    models = list(rows.largest)
    notes: list[str] = []
    scopes: list[tuple[str, NDArray[np.int64], bool]] = [(model, rows.of_model(model), False) for model in models]
    everything = np.arange(len(rows.values))
    if len(models) > 1:
        scopes += [(POOLED, everything, False), (WITHIN, everything, True)]
    else:
        notes.append(f"One model only, {models[0]}: nothing is pooled, and nothing is said about other models.")
    lines: list[tuple[Cell, ...]] = []
    found: dict[tuple[str, bool], float | None] = {}
    for ranked in (False, True):
        for scope, index, within in scopes:
            one = correlate(
                rows.values[index],
                rows.hallucinated[index].astype(np.float64),
                list(rows.images[index]),
                [rows.strata[row] for row in index],
                ranked=ranked,
                within=list(rows.models[index]) if within else None,
                resamples=resamples,
            )
            found[scope, ranked] = one.r
            kind = "Spearman" if ranked else "Pearson"
            lines.append(
                (scope, kind, one.r, *one.interval, one.p, one.p_error, len(index), len(set(rows.images[index])))
            )
            if one.reason:
                notes.append(f"{scope}, {kind}: {one.reason}.")
    if len(models) > 1:
        notes += _signs(found)
    table = Table(
        name=f"{rows.measure}_correlation",
        title=f"Correlation of {MEASURES[rows.measure]} and hallucination, over questions about absent objects",
        columns=("scope", "kind", "r", "r_low", "r_high", "p", "p_error", "questions", "images"),
        rows=tuple(lines),
        notes=(
            "Intervals: 95 %, bootstrap over images. p: permutation of images within model and task, all of them where "
            "they are few, else at random with the standard error p error. The paper reports r = −0.58 to −0.72 on its "
            "own models.",
        ),
    )
    return table, notes


def _signs(found: dict[tuple[str, bool], float | None]) -> list[str]:
    """A word on pooled against within-model correlation."""
    notes = []
    for ranked, kind in ((False, "Pearson"), (True, "Spearman")):
        pooled, within = found[POOLED, ranked], found[WITHIN, ranked]
        if pooled is None or within is None:
            continue
        told = f"{kind}: pooled r = {pooled:+.3f}, within models {within:+.3f}"
        if pooled * within < 0:
            notes.append(
                f"{told}: THE SIGNS DIFFER. The pooled correlation comes from differences between models and says "
                "nothing about samples of one model; read the one within models."
            )
        else:
            notes.append(f"{told}: same sign.")
    return notes
