"""The norm of a hidden state as proxy of its credit: how well it stands for it in each layer, and how it grows.

Credit of a patch is ‖∂ log P / ∂h‖ · ‖h‖, its proxy ‖h‖; the paper (SCR, arXiv 2602.22469) reports r = 0.72 in early
layers, and that redistribution lets norms grow by 48–56 % up to the last edited block.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from .._benchmarks import mean_intervals
from ..drawing.panels import draw_intervals, floats, legend_below, panel_grid
from ..drawing.style import Plot, look, paper_look
from ..drawing.tables import Cell, Table, by_model
from ..reading.load import NothingToShowError, Run, model_labels, row_labels
from ..reading.rows import DIAGNOSTICS
from ..reading.trace import series
from .finding import Finding

_QUANTITIES = {"r": "norm_credit_r", "growth": "norm_growth"}


def credit_table(runs: Sequence[Run]) -> tuple[Table, list[str]]:
    """A row per model, method and layer: mean r and mean norm growth over samples; and sentences.

    Raises:
        NothingToShowError: where no trace has either.
    """
    models, rows = model_labels(runs), row_labels(runs)
    groups: dict[tuple[str, str], list[tuple[str, dict[str, dict[int, float]]]]] = {}
    torn = 0
    for run in runs:
        for sample in run.samples:
            layers = series(sample, "layers")
            found = {name: series(sample, key) for name, key in _QUANTITIES.items()}
            wrong = not np.isfinite(layers).all() or any(of and len(of) != len(layers) for of in found.values())
            torn += wrong
            if wrong or not any(np.isfinite(values).any() for values in found.values()):
                continue
            by_layer = {
                name: {int(at): value for at, value in zip(layers, of, strict=False)} for name, of in found.items()
            }
            groups.setdefault((models[run.model], rows[run.folder]), []).append((sample.image, by_layer))
    if not groups:
        raise NothingToShowError(
            f"no record tells how norms stand for credit: got {len(runs)} runs without it; expected "
            f"trace['layers'] with 'norm_credit_r' or 'norm_growth'. {DIAGNOSTICS}."
        )
    lines: list[tuple[Cell, ...]] = []
    for (model, row), samples in groups.items():
        images = [image for image, _ in samples]
        layers_here = sorted({layer for _, found in samples for of in found.values() for layer in of})
        columns = {}
        for name in _QUANTITIES:
            values = np.array([[found[name].get(layer, np.nan) for layer in layers_here] for _, found in samples])
            columns[name] = mean_intervals(values, images)
        for index, layer in enumerate(layers_here):
            (r, r_bounds), (growth, growth_bounds) = columns["r"][index], columns["growth"][index]
            lines.append((model, row, layer, r, *r_bounds, growth, *growth_bounds, len(samples), len(set(images))))
    table = Table(
        name="credit",
        title="Norm as proxy of credit, and growth of norms, per layer",
        columns=(
            "model",
            "row",
            "layer",
            "r",
            "r_low",
            "r_high",
            "growth",
            "growth_low",
            "growth_high",
            "samples",
            "images",
        ),
        rows=tuple(lines),
        notes=(
            "r: Pearson over the patches of an image, credit against norm; mean over samples. Growth: as recorded, "
            "mean over samples. Intervals: 95 %, images resampled. The paper reports r = 0.72 in early layers.",
        ),
    )
    notes = [f"{torn} samples have another number of values than of layers and are left out."] if torn else []
    for name, key in _QUANTITIES.items():
        if all(cell is None for cell in table.column(name)):
            notes.append(f"no record holds trace[{key!r}]: that panel is empty. {DIAGNOSTICS}.")
    return table, notes


def plot_credit(table: Table) -> Plot:
    """Two panels over layers: r, and growth; a line per model and method."""
    records = list(table.records())
    names = list(dict.fromkeys((str(row["model"]), str(row["row"])) for row in records))
    with paper_look():
        figure, axes = panel_grid(2, columns=2)
        for axis, quantity, label in zip(axes, _QUANTITIES, ("r of norm and credit", "norm growth"), strict=True):
            for index, name in enumerate(names):
                own = [row for row in records if (row["model"], row["row"]) == name and row[quantity] is not None]
                if own:
                    style, shown = look(index), " · ".join(name)
                    draw_intervals(axis, floats(own, "layer"), own, quantity, style, label=shown, scale=1)
            axis.set(xlabel="layer", ylabel=label)
            axis.locator_params(axis="x", integer=True)
        legend_below(figure)
    caption = "How well a patch's norm stands for its credit, and how norms grow; bars: 95 %, images resampled."
    return Plot(figure=figure, data=table, caption=caption)


def credit_findings(runs: Sequence[Run]) -> list[Finding]:
    """Norm as proxy of credit.

    Raises:
        NothingToShowError: where the records do not hold it.
    """
    table, notes = credit_table(runs)
    plots = tuple(functools.partial(plot_credit, part) for part in by_model(table))
    return [Finding(title="norm as proxy of credit", tables=(table,), plots=plots, notes=tuple(notes))]
