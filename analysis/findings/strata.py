"""What a method gains where attention is concentrated, and where it is not: its effect by the baseline's entropy.

The paper (SCR, arXiv 2602.22469) reports 9.8 points for samples below 3.5 nats and 2.4 above 4.5.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .._benchmarks import Bounds, SampleRecord, bootstrap_weights, percentile_interval
from ..drawing.panels import draw_intervals, floats, legend_below, panel_grid
from ..drawing.style import GREY, Plot, look, paper_look
from ..drawing.tables import Cell, Table, by_model
from ..reading.load import NothingToShowError, Run
from ..reading.pairs import Pair, compare_rates, yes_no_pairs
from ..reading.rows import DIAGNOSTICS
from ..reading.trace import largest_entropy, numbers
from ..statistics.bins import Bin, paper_bins, quantile_bins
from .finding import Finding

QUANTILES = 4
FEWEST_IMAGES = 10
"""In each of two strata, before their gains are compared: resamples of fewer hardly differ."""
_CONTRAST = ("difference", "difference_low", "difference_high")
_COLUMNS = (
    "model", "task", "row", "cut", "bin", "entropy", "accuracy_gain", "accuracy_gain_low", "accuracy_gain_high",
    "hallucination_change", "hallucination_change_low", "hallucination_change_high", "wrong→right", "right→wrong",
    "questions", "images",
)  # fmt: skip


def strata_tables(pairs: Sequence[Pair]) -> tuple[Table, Table, list[str]]:
    """Effects by bins of the baseline's entropy, lowest against highest bin; and sentences.

    The first has a row per pair, cut ("quantiles", "paper") and bin; the second per pair and cut.

    Raises:
        NothingToShowError: where no baseline has entropies in its records.
    """
    lines: list[tuple[Cell, ...]] = []
    contrasts: list[tuple[Cell, ...]] = []
    notes: list[str] = []
    for pair in pairs:
        where = f"{pair.model} on {pair.task}"
        entropies = numbers(pair.before, "entropy")
        known = np.flatnonzero(np.isfinite(entropies))
        if not len(known):
            notes.append(f"{where}: the baseline has no entropy in its records. {DIAGNOSTICS}.")
            continue
        if len(known) < len(entropies):
            notes.append(
                f"{where}: {len(entropies) - len(known)} of {len(entropies)} samples have no entropy, left out."
            )
        values = entropies[known]
        cuts = [("quantiles", quantile_bins(values, QUANTILES))]
        if len(cuts[0][1]) == 1:
            notes.append(f"{where}: all samples have the entropy {values[0]:.3g}; there is one stratum only.")
        largest = largest_entropy(pair.before)
        paper = "the paper's bins are left out, as no trace tells the size of its grids"
        found = paper if largest is None else paper_bins(values, largest)
        if isinstance(found, str):
            notes.append(f"{where}: {found}.")
        else:
            cuts.append(("paper", found))
        for cut, bins in cuts:
            lines += [_line(pair, cut, one, known[one.rows], entropies) for one in bins]
            if len(bins) > 1:
                contrasts.append(_contrast(pair, cut, known[bins[0].rows], known[bins[-1].rows]))
    if not lines:
        raise NothingToShowError(
            f"no strata of entropy: got {len(pairs)} pairs whose baselines hold none; expected trace['entropy'] in the "
            f"samples of 'none'. {DIAGNOSTICS}."
        )
    table = Table(
        name="strata",
        title="Each method's effect by the baseline's attention entropy",
        columns=_COLUMNS,
        rows=tuple(lines),
        percent=frozenset(name for name in _COLUMNS if name.startswith(("accuracy", "hallucination"))),
        notes=(
            "Method minus baseline within the stratum, in points. Intervals: 95 %, images resampled. The paper reports "
            "gains of 9.8 points below 3.5 nats and 2.4 above 4.5 on its own models.",
        ),
    )
    contrast = Table(
        name="strata_contrast",
        title="Accuracy gained in the lowest minus in the highest stratum of entropy",
        columns=("model", "task", "row", "cut", *_CONTRAST, "lowest", "highest", "reading"),
        rows=tuple(contrasts),
        percent=frozenset(_CONTRAST),
        notes=("Lowest, highest: their questions. Intervals: 95 %, images resampled, the same for both strata.",),
    )
    return table, contrast, list(dict.fromkeys(notes))


def _line(pair: Pair, cut: str, one: Bin, rows: NDArray[np.int64], entropies: NDArray[np.float64]) -> tuple[Cell, ...]:
    found = compare_rates([pair.before[row] for row in rows], [pair.after[row] for row in rows])
    cells: list[Cell] = []
    for metric in ("accuracy", "hallucination_rate"):
        difference = found.differences.get(metric)
        cells += [None] * 3 if difference is None else [difference.value, *(difference.interval or (None, None))]
    counts = found.wrong_to_right, found.right_to_wrong, found.n, found.images
    return (pair.model, pair.task, pair.row, cut, one.label, float(entropies[rows].mean()), *cells, *counts)


def _contrast(pair: Pair, cut: str, low: NDArray[np.int64], high: NDArray[np.int64]) -> tuple[Cell, ...]:
    """Gain in the lowest stratum minus gain in the highest, the same images drawn for both; and what it says."""
    gains = np.array([_right(after) - _right(before) for before, after in zip(pair.before, pair.after, strict=True)])
    images = [sample.image for sample in pair.before]
    member = np.zeros((len(gains), 2))
    member[low, 0] = member[high, 1] = 1.0

    def difference(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        mass = weights @ member
        means = np.divide(weights @ (member * gains[:, None]), mass, out=np.full_like(mass, np.nan), where=mass > 0)
        return np.asarray(means[:, 0] - means[:, 1])

    value = float(difference(np.ones((1, len(gains))))[0])
    bounds: Bounds = (None, None)
    if min(len({images[row] for row in rows.tolist()}) for rows in (low, high)) >= FEWEST_IMAGES:
        drawn = np.concatenate([difference(part) for part in bootstrap_weights(images)])
        bounds = percentile_interval(drawn) or (None, None)
    if bounds[0] is None or bounds[1] is None:
        word = f"fewer than {FEWEST_IMAGES} images in a stratum: no interval"
    elif bounds[0] > 0:
        word = "gains more where entropy is low"
    else:
        word = "gains less where entropy is low" if bounds[1] < 0 else "no difference found"
    return (pair.model, pair.task, pair.row, cut, value, *bounds, len(low), len(high), word)


def _right(sample: SampleRecord) -> float:
    return float(sample.outcome in ("tp", "tn"))


def plot_strata(table: Table, cut: str = "quantiles") -> Plot:
    """Accuracy gain by stratum: a panel per model and task, a line per method."""
    records = [row for row in table.records() if row["cut"] == cut]
    panels = list(dict.fromkeys((str(row["model"]), str(row["task"])) for row in records))
    rows = list(dict.fromkeys(str(row["row"]) for row in records))
    with paper_look():
        figure, axes = panel_grid(len(panels), sharey=True)
        for axis, (model, task) in zip(axes, panels, strict=True):
            axis.axhline(0, color=GREY, linewidth=0.8)
            axis.set(title=f"{model} · {task}", xlabel="attention entropy (nats)")
            for index, name in enumerate(rows):
                own = [row for row in records if (row["model"], row["task"], row["row"]) == (model, task, name)]
                if own:
                    draw_intervals(axis, floats(own, "entropy"), own, "accuracy_gain", look(index), label=name)
        axes[0].set_ylabel("accuracy gain (points)")
        legend_below(figure)
    caption = "Accuracy gained over the baseline by quantiles of its attention entropy; bars: 95 %, images resampled."
    return Plot(figure=figure, data=table, caption=caption)


def strata_findings(runs: Sequence[Run]) -> list[Finding]:
    """Each method's effect by entropy.

    Raises:
        NothingToShowError: where there is no pair, or no entropy.
    """
    pairs, problems = yes_no_pairs(runs)
    table, contrast, notes = strata_tables(pairs)
    plots = tuple(functools.partial(plot_strata, part) for part in by_model(table))
    return [Finding(title="effect by entropy", tables=(contrast, table), plots=plots, notes=(*notes, *problems))]
