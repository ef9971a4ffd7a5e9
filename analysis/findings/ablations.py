"""Which choices of a method matter: runs that differ from one configuration in one field, a panel per field.

The reference is the configuration from which most others differ in a single field. Runs that differ from it in several
belong to no panel; the forest has them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .._benchmarks import holm, ratio_intervals, ratios, yes_no_table
from ..drawing.panels import draw_intervals, floats, legend_below, panel_grid
from ..drawing.style import GREY, Plot, look, paper_look
from ..drawing.tables import Cell, Table, by_model
from ..reading.load import NothingToShowError, Run, flat_config, short_value
from ..reading.pairs import Pair, compare_rates, yes_no_pairs
from .finding import Finding
from .forest import LABELS, SWAPS, compare_p

METRICS = ("hallucination_rate", "accuracy")
_COLUMNS = (
    "model", "task", "method", "metric", "factor", "value", "reference", "rate", "rate_low", "rate_high", "baseline",
    "baseline_low", "baseline_high", "change", "change_low", "change_high", "p", "p_error", "p_holm", "survives",
    "wrong→right", "right→wrong", "questions", "images",
)  # fmt: skip


class Ablation(NamedTuple):
    """Runs of one method in one setting.

    Attributes:
        reference: the run that most others differ from in one field.
        factors: field → runs that differ in it alone, with their value, sorted by it; the reference is one of them.
        others: runs that differ in several fields.
    """

    reference: Pair
    factors: dict[str, list[tuple[Any, Pair]]]
    others: tuple[Pair, ...]


def find_sweeps(pairs: Sequence[Pair]) -> list[Ablation]:
    """The sweeps among pairs: two configurations or more of one method, in one setting."""
    groups: dict[tuple[Any, ...], list[Pair]] = {}
    for pair in pairs:
        run = pair.method
        groups.setdefault((run.setting, run.row, pair.baseline.folder), []).append(pair)
    return [_sweep(group) for group in groups.values() if len(group) > 1]


def ablation_table(sweeps: Sequence[Ablation]) -> Table:
    """A row per metric, factor and value: rate, baseline, and the change to the reference.

    p swaps a run and the reference image by image; Holm's correction is over all changes of one metric in the table.
    """
    lines: list[list[Cell]] = []
    for sweep in sweeps:
        for factor, runs in sweep.factors.items():
            for value, pair in runs:
                lines += _lines(sweep.reference, pair, factor, value)
    lines.sort(key=lambda line: METRICS.index(str(line[3])))
    p_at = _COLUMNS.index("p")
    for metric in METRICS:
        tested = [line for line in lines if line[3] == metric and line[p_at] is not None]
        for line, p in zip(tested, holm([float(line[p_at] or 0) for line in tested]), strict=True):
            line[p_at + 2 : p_at + 4] = [p, p < 0.05]
    shares = ("rate", "baseline", "change")
    return Table(
        name="ablations",
        title="One field of a method at a time",
        columns=_COLUMNS,
        rows=tuple(tuple(line) for line in lines),
        percent=frozenset(f"{name}{bound}" for name in shares for bound in ("", "_low", "_high")),
        notes=(
            "Change: to the reference configuration, on the same questions. Intervals: 95 %, of rates Wilson's, of "
            f"changes images resampled. {SWAPS}; p holm: corrected for all changes of the metric; survives: < 0.05.",
        ),
    )


def plot_ablations(table: Table, metric: str = "hallucination_rate") -> Plot:
    """A panel per method and factor: rate over value, a line per model and task, the baseline's interval as a band."""
    records = [row for row in table.records() if row["metric"] == metric]
    panels = list(dict.fromkeys((str(row["method"]), str(row["factor"])) for row in records))
    lines = list(dict.fromkeys((str(row["model"]), str(row["task"])) for row in records))
    with paper_look():
        figure, axes = panel_grid(len(panels), sharey=True)
        for axis, (method, factor) in zip(axes, panels, strict=True):
            own = [row for row in records if (row["method"], row["factor"]) == (method, factor)]
            values = list(dict.fromkeys(row["value"] for row in sorted(own, key=lambda row: _order(row["value"]))))
            for index, line in enumerate(lines):
                mine = [row for row in own if (row["model"], row["task"]) == line]
                if not mine:
                    continue
                style = look(index)
                x = np.array([values.index(row["value"]) for row in mine])
                draw_intervals(axis, x, mine, "rate", style, label=" · ".join(line))
                at = [place for place, row in zip(x, mine, strict=True) if row["reference"]]
                y = 100 * floats([row for row in mine if row["reference"]], "rate")
                axis.plot(at, y, "o", color=GREY, markersize=9, markerfacecolor="none")
                low, high = (100 * floats(mine[:1], f"baseline_{end}")[0] for end in ("low", "high"))
                if np.isfinite(low):
                    axis.axhspan(low, high, color=style.color, alpha=0.08, linewidth=0)
            axis.set_xticks(range(len(values)), labels=[short_value(value) for value in values])
            axis.set(title=method, xlabel=factor)
        axes[0].set_ylabel(f"{LABELS.get(metric, metric)} (%)")
        legend_below(figure)
    caption = "One field at a time. Bars: 95 %, Wilson's; bands: the baseline's; ringed: the reference."
    return Plot(figure=figure, data=table, caption=caption)


def ablation_findings(runs: Sequence[Run]) -> list[Finding]:
    """All sweeps of yes/no tasks.

    Raises:
        NothingToShowError: where no method was run with two configurations.
    """
    pairs, problems = yes_no_pairs(runs)
    sweeps = find_sweeps(pairs)
    table = ablation_table(sweeps)
    if not table.rows:
        raise NothingToShowError(
            f"no ablation: got {len(pairs)} runs of methods, none of which differs from another of its method in one "
            "field; expected two values of one at least. Run `python -m benchmarks.sweep --vary scale=1.0,1.1,1.2`."
        )
    notes = [
        f"{sweep.reference.model} on {sweep.reference.task}, {sweep.reference.method.row}: {len(sweep.others)} runs "
        "differ from the reference in several fields and are in no panel."
        for sweep in sweeps
        if sweep.others
    ]
    surviving = [
        f"{row['model']} on {row['task']}, {row['method']}: {row['factor']}={short_value(row['value'])} changes the "
        f"{LABELS.get(str(row['metric']), row['metric'])} by {100 * float(row['change'] or 0):+.1f} points, which "
        "survives Holm's correction."
        for row in table.records()
        if row["survives"]
    ]
    words = surviving or ["No change of a field survives Holm's correction."]
    plots = tuple(functools.partial(plot_ablations, part) for part in by_model(table))
    return [Finding(title="ablations", tables=(table,), plots=plots, notes=(*words, *notes, *problems))]


def _sweep(group: Sequence[Pair]) -> Ablation:
    configs = [flat_config(pair.method.record.config) for pair in group]
    differing = [[_differing(one, other) for other in configs] for one in configs]
    neighbours = [sum(len(names) == 1 for names in row) for row in differing]
    given = [len(flat_config(pair.method.record.config_given)) for pair in group]
    # Among equals the one for which least was set: the default.
    best = min(range(len(group)), key=lambda index: (-neighbours[index], given[index], group[index].row))
    factors: dict[str, list[tuple[Any, Pair]]] = {}
    for index, names in enumerate(differing[best]):
        if len(names) == 1:
            factors.setdefault(names[0], []).append((configs[index].get(names[0]), group[index]))
    for name, runs in factors.items():
        runs.append((configs[best].get(name), group[best]))
        runs.sort(key=lambda one: _order(one[0]))
    others = tuple(pair for pair, names in zip(group, differing[best], strict=True) if len(names) > 1)
    return Ablation(group[best], factors, others)


def _lines(reference: Pair, pair: Pair, factor: str, value: Any) -> list[list[Cell]]:
    """A line per metric of one run in one panel."""
    tables = [yes_no_table(samples) for samples in (pair.after, pair.before)]
    values, bounds = [ratios(table) for table in tables], [ratio_intervals(table) for table in tables]
    theirs = {sample.id: sample for sample in reference.after}
    after = [sample for sample in pair.after if sample.id in theirs]
    before = [theirs[sample.id] for sample in after]
    # The reference is not compared with itself; a run that shares no sample with it is with nothing.
    found = compare_rates(before, after) if after and pair is not reference else None
    text = value if isinstance(value, str | int | float) else json.dumps(value)
    lines: list[list[Cell]] = []
    for metric in METRICS:
        line: list[Cell] = [pair.model, pair.task, pair.method.row, metric, factor, text, pair is reference]
        for one, bound in zip(values, bounds, strict=True):
            line += [one[metric], *(bound.get(metric) or (None, None))]
        if found is None:
            line += [None] * 9
        else:
            difference = found.differences.get(metric)
            line += [None] * 3 if difference is None else [difference.value, *(difference.interval or (None, None))]
            p = compare_p(before, after, metric)
            line += [*(p or (None, None)), None, None, found.wrong_to_right, found.right_to_wrong]
        lines.append([*line, len(pair.after), len({sample.image for sample in pair.after})])
    return lines


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    missing = object()
    return [name for name in dict.fromkeys((*one, *other)) if one.get(name, missing) != other.get(name, missing)]


def _order(value: Any) -> tuple[int, float, str]:
    """Numbers by size, then the rest by name."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, float(value), "") if is_number else (1, 0.0, str(value))
