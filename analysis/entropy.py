"""Attention entropy against hallucination: `python -m analysis.entropy results/ --out figures/`.

Questions about absent objects only, where a hallucination is possible. The paper (SCR, arXiv 2602.22469, Table 6)
reports r = −0.58 … −0.72: a concentrated map goes with hallucination.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from ._benchmarks import RESAMPLES
from .command import run_command
from .drawing.panels import draw_intervals, floats, legend_below
from .drawing.style import GREY, Plot, look, new_figure, paper_look
from .drawing.tables import Table
from .findings.entropy_bins import entropy_bins
from .findings.entropy_correlation import POOLED, WITHIN, entropy_correlations
from .findings.entropy_logistic import entropy_logistic
from .findings.finding import Finding
from .reading.load import NothingToShowError, Run
from .reading.rows import absent_rows
from .reading.trace import MEASURES


@dataclass(frozen=True, kw_only=True, eq=False)
class EntropyResult:
    """Entropy against hallucination.

    Attributes:
        measure: a key of `analysis.reading.trace.MEASURES`.
        correlations: a row per scope (a model, pooled, within models) and kind (Pearson, Spearman).
        binned: a row per model and bin: hallucination rate with its interval.
        logistic: a row per scope and covariate: odds ratio per standard deviation, with its interval.
        notes: what was left out, and whether pooled and within-model signs differ.
    """

    measure: str
    correlations: Table
    binned: Table
    logistic: Table
    notes: tuple[str, ...]


def analyse_entropy(runs: Sequence[Run], measure: str = "entropy", *, resamples: int = RESAMPLES) -> EntropyResult:
    """Hold a measure of the unpatched models against their hallucinations.

    Args:
        runs: all runs of a folder; baselines of yes/no tasks are used.
        measure: a key of `analysis.reading.trace.MEASURES`.
        resamples: of each bootstrap and permutation.

    Raises:
        NothingToShowError: where no record holds the measure.
    """
    rows = absent_rows(runs, measure)
    correlations, words = entropy_correlations(rows, resamples)
    binned, bin_words = entropy_bins(rows, resamples)
    logistic, fit_words = entropy_logistic(rows, resamples)
    notes = (*rows.notes, *words, *bin_words, *fit_words)
    return EntropyResult(measure=measure, correlations=correlations, binned=binned, logistic=logistic, notes=notes)


def plot_entropy(result: EntropyResult) -> Plot:
    """Hallucination rate by quantile bins of the measure, one line per model; the correlations in legend and title."""
    wanted = [row for row in result.binned.records() if row["cut"] == "quantiles"]
    r = {row["scope"]: row["r"] for row in result.correlations.records() if row["kind"] == "Pearson"}
    with paper_look():
        figure, [axis] = new_figure()
        for number, model in enumerate(dict.fromkeys(str(row["model"]) for row in wanted)):
            lines = [row for row in wanted if row["model"] == model]
            known = r.get(model)
            label = model if known is None else f"{model} (r = {known:+.2f})"
            draw_intervals(axis, floats(lines, "mean"), lines, "rate", look(number), label=label)
        axis.set(xlabel=MEASURES[result.measure], ylabel="hallucination rate (%)")
        pooled, within = r.get(POOLED), r.get(WITHIN)
        if pooled is not None and within is not None:
            axis.set_title(f"pooled r = {pooled:+.2f}, within models {within:+.2f}", loc="left", color=GREY)
        legend_below(figure)
    return Plot(
        figure=figure,
        data=result.binned,
        caption=f"Hallucination rate on absent objects by {MEASURES[result.measure]}; bars: 95 %, Wilson's.",
    )


def entropy_findings(runs: Sequence[Run]) -> list[Finding]:
    """The analysis for every measure that the records hold.

    Raises:
        NothingToShowError: where they hold none.
    """
    found: list[Finding] = []
    missing: list[NothingToShowError] = []
    for measure in MEASURES:
        try:
            result = analyse_entropy(runs, measure)
        except NothingToShowError as error:
            missing.append(error)
            continue
        found.append(
            Finding(
                title=f"{MEASURES[measure]} against hallucination",
                tables=(result.correlations, result.logistic, result.binned),
                plots=(functools.partial(plot_entropy, result),),
                notes=result.notes,
            )
        )
    if not found:
        raise missing[0]
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    return run_command(
        "analysis.entropy", "Attention entropy against hallucination.", {"entropy": entropy_findings}, argv
    )


if __name__ == "__main__":
    sys.exit(main())
