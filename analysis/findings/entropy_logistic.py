"""Hallucination explained by entropy beside what could stand behind both: number and size of the objects."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .._benchmarks import RESAMPLES, bootstrap_weights, fit_logistic, percentile_interval
from ..drawing.tables import Cell, Table
from ..reading.rows import AbsentRows
from ..reading.trace import MEASURES
from .entropy_correlation import WITHIN


def entropy_logistic(rows: AbsentRows, resamples: int = RESAMPLES) -> tuple[Table, list[str]]:
    """A row per scope (each model, within models) and covariate; and sentences about what could not be fitted.

    Args:
        rows: questions about absent objects.
        resamples: of the bootstrap, a fit each.
    """
    lines: list[tuple[Cell, ...]] = []
    notes: list[str] = []
    models = list(rows.largest)
    scopes = [(model, rows.of_model(model)) for model in models]
    if len(models) > 1:
        scopes.append((WITHIN, np.arange(len(rows.values))))
    for scope, index in scopes:
        covariates, index, told = _covariates(rows, scope, index)
        notes += told
        outcomes = rows.hallucinated[index]
        share = f"{int(outcomes.sum())} of {len(index)} absent objects got yes"
        if not covariates or outcomes.all() or not outcomes.any():
            why = "nothing varies that could explain it" if covariates == {} else "all answers are the same"
            notes.append(f"{scope}: no logistic regression, {why} ({share}).")
            continue
        deviations = {name: float(of.std()) for name, of in covariates.items()}
        columns = [(of - of.mean()) / deviations[name] for name, of in covariates.items()]
        # Models may differ in their rates: an intercept for each.
        intercepts = [(rows.models[index] == model).astype(np.float64) for model in np.unique(rows.models[index])]
        design = np.stack([*columns, *intercepts], axis=1)
        fit = fit_logistic(design, outcomes)[0]
        if np.isnan(fit).any():
            notes.append(
                f"{scope}: the logistic regression has no finite maximum, the covariates separate the answers "
                f"({share})."
            )
            continue
        drawn = [
            fit_logistic(design, outcomes, part, start=fit)
            for part in bootstrap_weights(list(rows.images[index]), resamples=resamples)
        ]
        betas = np.concatenate(drawn) if drawn else np.empty((0, len(fit)))
        for column, name in enumerate(covariates):
            bounds = percentile_interval(betas[:, column]) or (None, None)
            odds = [None if bound is None else float(np.exp(bound)) for bound in bounds]
            lines.append(
                (
                    scope,
                    name,
                    float(np.exp(fit[column])),
                    *odds,
                    deviations[name],
                    len(index),
                    len(set(rows.images[index])),
                )
            )
    table = Table(
        name=f"{rows.measure}_logistic",
        title=f"Logistic regression of hallucination on {MEASURES[rows.measure]}, object count and object size",
        columns=(
            "scope",
            "covariate",
            "odds_ratio",
            "odds_ratio_low",
            "odds_ratio_high",
            "deviation",
            "questions",
            "images",
        ),
        rows=tuple(lines),
        notes=(
            "Odds ratio of a hallucination per standard deviation of the covariate; below 1, more of it goes with "
            "fewer hallucinations. Within models: an intercept per model. Intervals: 95 %, images "
            "resampled. objects: categories in the image. size: mean share of the image of the objects asked about "
            "that are there.",
        ),
    )
    return table, notes


def _covariates(
    rows: AbsentRows, scope: str, index: NDArray[np.int64]
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.int64], list[str]]:
    """What varies and is known of more than half of the rows; the rows that have it all; and what was left out."""
    wanted = {rows.measure: rows.values, "objects": rows.objects, "size": rows.size}
    notes, usable = [], []
    for name, of in wanted.items():
        known = np.isfinite(of[index])
        if 2 * known.sum() <= len(index):
            notes.append(
                f"{scope}: {name} is recorded for {int(known.sum())} of {len(index)} questions and no covariate."
            )
        else:
            usable.append(name)
    complete = (
        np.all([np.isfinite(wanted[name][index]) for name in usable], axis=0) if usable else np.zeros(len(index), bool)
    )
    if usable and not complete.all():
        notes.append(
            f"{scope}: {int((~complete).sum())} of {len(index)} questions lack a covariate and are "
            "left out of the regression."
        )
    index = index[complete]
    found = {}
    for name in usable:
        of = wanted[name][index]
        if len(of) and np.ptp(of) > 1e-9 * max(1e-300, float(np.abs(of).max())):
            found[name] = of
        else:
            notes.append(f"{scope}: {name} is the same for all questions and no covariate.")
    return found, index, notes
