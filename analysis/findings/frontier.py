"""Hallucination rate, caption quality and latency of every method at once; the Pareto set is what nothing beats.

Times stand beside it and decide no mark: of runs on machines that do other things too, a ratio of 0.85 is noise.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._benchmarks import ratio_intervals, ratios, yes_no_table
from ..drawing.panels import floats, legend_below, panel_grid
from ..drawing.style import Plot, look, paper_look
from ..drawing.tables import Cell, Table, by_model
from ..reading.load import NothingToShowError, Run, model_labels, row_labels
from .finding import Finding
from .summary import run_metrics

QUALITIES = ("cider", "recall")
"""Metrics of a caption task that can stand for quality, the first that there is: CIDEr, else CHAIR's recall."""
_COLUMNS = (
    "model", "row", "hallucination_rate", "hallucination_rate_low", "hallucination_rate_high", "quality_metric",
    "quality", "quality_low", "quality_high", "latency_ms", "latency_ms_low", "latency_ms_high", "latency_ratio",
    "latency_ratio_low", "latency_ratio_high", "pareto", "yes_no_tasks", "questions",
)  # fmt: skip


_Model = tuple[str, str | None, str]
_Asked = dict[str, tuple[str, frozenset[str]]]


class Identity(NamedTuple):
    """What makes one point: a model and all that was done to it, whatever the task."""

    model: _Model
    row: str
    config: str
    sampling: str
    seed: int


def pareto_set(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points no other beats, (n, d) → (n,): none is as good in all and better in one. Less is better."""
    as_good = np.all(points[None] <= points[:, None], axis=2)
    better = np.any(points[None] < points[:, None], axis=2)
    return np.asarray(~np.any(as_good & better, axis=1))


def frontier_table(runs: Sequence[Run]) -> tuple[Table, list[str]]:
    """A row per model and method; and sentences on rows and dimensions left out.

    Raises:
        NothingToShowError: where no run answers yes/no questions.
    """
    models, rows = model_labels(runs), point_labels(runs)
    groups: dict[Identity, list[Run]] = {}
    for run in runs:
        groups.setdefault(identity(run), []).append(run)
    # What is compared must have been asked the same: the questions of the row that has most of them.
    wanted: dict[_Model, _Asked] = {}
    captions: dict[_Model, _Asked] = {}
    for key, group in groups.items():
        found, where = _asked(group), key.model
        if _size(found) > _size(wanted.get(where, {})):
            wanted[where] = found
        # Of the captions, those of the row that comes first: the unpatched model's, where there is one.
        if group[0].is_baseline or where not in captions:
            captions[where] = _captioned(group) or captions.get(where, {})
    lines: list[list[Cell]] = []
    notes: list[str] = []
    for key, group in groups.items():
        asked = wanted.get(key.model, {})
        label = rows[key]
        answered = _same_questions(group, asked)
        if isinstance(answered, str):
            notes.append(f"{models[key.model]}, {label}: not in the frontier, it {answered}.")
            continue
        table = yes_no_table([sample for run in answered for sample in run.samples])
        rate = ratios(table)["hallucination_rate"]
        bounds = ratio_intervals(table).get("hallucination_rate") or (None, None)
        times, slower = (_latency(answered, name) for name in ("total_ms", "total_ratio"))
        if answered[0].is_baseline and slower[0] is None:
            slower = (1.0, None, None)
        described = captions[key.model]
        quality = _quality(group, described)
        if quality[0] is None and described and _captioned(group):
            notes.append(
                f"{models[key.model]}, {label}: its captions are of other images than those of the other rows."
            )
        cells = (*quality, *times, *slower, None, ", ".join(sorted(asked)), len(table.ids))
        lines.append([models[key.model], label, rate, *bounds, *cells])
    if not lines:
        raise NothingToShowError(
            f"no frontier: got {len(runs)} runs, none on a yes/no task; expected hallucination rates. "
            "Run `python -m benchmarks.run --method scr --tasks pope,chair`."
        )
    for model in dict.fromkeys(str(line[0]) for line in lines):
        notes += _mark([line for line in lines if line[0] == model], model)
    table_ = Table(
        name="frontier",
        title="Hallucination rate, caption quality and latency",
        columns=_COLUMNS,
        rows=tuple(tuple(line) for line in lines),
        percent=frozenset(name for name in _COLUMNS if name.startswith("hallucination_rate")),
        notes=(
            "Latency: milliseconds per answer, and its ratio to the baseline timed in the same process, with the "
            "middle half of batches; it decides no mark. Pareto: no other row of the model is as good in hallucination "
            "rate and quality, as far as both are known, and better in one. Intervals: 95 %.",
        ),
    )
    return table_, notes


def _asked(group: Sequence[Run]) -> _Asked:
    """What a row was asked: yes/no task → identity of the data and names of the samples; of the longest run."""
    found: _Asked = {}
    for run in group:
        if run.is_yes_no and len(run.samples) > len(found.get(run.record.task, ("", frozenset()))[1]):
            found[run.record.task] = (_data(run), _names(run))
    return found


def _data(run: Run) -> str:
    """What two runs must share for equal names of samples to mean equal questions."""
    one = run.record
    return f"{one.data_sha256} {one.seed} {one.rule} {one.task_version}"


def _names(run: Run) -> frozenset[str]:
    return frozenset(sample.id for sample in run.samples)


def _size(asked: _Asked) -> tuple[int, int]:
    return len(asked), sum(len(ids) for _, ids in asked.values())


def _same_questions(group: Sequence[Run], asked: _Asked) -> list[Run] | str:
    """A row's runs on just these questions, or why it has none."""
    if not asked:
        return "has no yes/no questions"
    missing = sorted(set(asked) - {run.record.task for run in group})
    if missing:
        return f"lacks {', '.join(missing)}"
    found = []
    for task, (data, ids) in asked.items():
        own = [run for run in group if run.record.task == task and _data(run) == data]
        if not own:
            return f"has other questions in {task}"
        answered = max((_names(run) & ids for run in own), key=len)
        if answered != ids:
            return f"has {len(answered)} of the {len(ids)} questions of {task}"
        found.append(next(run for run in own if _names(run) >= ids))
    return found


def _mark(lines: list[list[Cell]], model: str) -> list[str]:
    """Mark the Pareto set of one model's rows, over the dimensions that all rows have."""
    signs = {"hallucination_rate": 1.0, "quality": -1.0}
    metrics = {line[_COLUMNS.index("quality_metric")] for line in lines}
    notes = []
    used = []
    for name in signs:
        known = all(line[_COLUMNS.index(name)] is not None for line in lines)
        if known and not (name == "quality" and len(metrics) > 1):
            used.append(name)
        else:
            notes.append(
                f"{model}: {name.replace('_', ' ')} is not known of all rows and plays no part in the Pareto set."
            )
    if used:
        columns = [[signs[name] * float(line[_COLUMNS.index(name)] or 0) for line in lines] for name in used]
        for line, best in zip(lines, pareto_set(np.array(columns).T), strict=True):
            line[_COLUMNS.index("pareto")] = bool(best)
    return notes


def _quality(group: Sequence[Run], captions: _Asked) -> tuple[Cell, Cell, Cell, Cell]:
    """Name, value and interval of the first quality that a run on just these captions has."""
    for name in QUALITIES:
        for run in group:
            if captions.get(run.record.task) == (_data(run), _names(run)):
                found = run_metrics(run).get(name)
                if found is not None and found[0] is not None:
                    return (f"{run.record.task} {name}", *found)
    return (None, None, None, None)


def _captioned(group: Sequence[Run]) -> _Asked:
    """Caption task → identity of the data and names of the captions, of tasks that have a quality."""
    return {
        run.record.task: (_data(run), _names(run))
        for run in group
        if not run.is_yes_no and any(run_metrics(run).get(name) for name in QUALITIES)
    }


def identity(run: Run) -> Identity:
    """The point that a run belongs to."""
    one = run.record
    texts = [json.dumps(of, sort_keys=True) for of in (one.config, _decoding(run))]
    return Identity(run.model, run.row, texts[0], texts[1], one.seed)


def _decoding(run: Run) -> dict[str, Any]:
    """How answers were decoded; where they were cut off is the task's."""
    return {name: value for name, value in run.record.generation.items() if name != "max_new_tokens"}


def point_labels(runs: Sequence[Run]) -> dict[Identity, str]:
    """A name for each point: its row, with that in which its configuration, sampling or seed differs from others'."""
    points: dict[Identity, Run] = {}
    for run in runs:
        # Of no task: only what was done to the model is left to tell runs apart.
        bare = dataclasses.replace(
            run.record, task="", task_version=0, rule="", data_sha256="", generation=_decoding(run)
        )
        points.setdefault(identity(run), dataclasses.replace(run, record=bare))
    labels = row_labels(list(points.values()))
    return {key: labels[run.folder] for key, run in points.items()}


def _latency(group: Sequence[Run], name: str) -> tuple[float | None, float | None, float | None]:
    """Mean over tasks of a time, and the least and the greatest quartile over batches of any of them."""
    times = [run.record.timing.get(name) for run in group]
    spreads = [run.record.timing.get(f"{name}_spread") for run in group]
    known = [float(value) for value in times if isinstance(value, int | float)]
    if not known or len(known) < len(times):
        return (None, None, None)
    mean = float(np.mean(known))
    bounds = [(float(one[0]), float(one[1])) for one in spreads if isinstance(one, list) and len(one) == 2]
    if len(bounds) < len(times):
        return (mean, None, None)
    return (mean, min(low for low, _ in bounds), max(high for _, high in bounds))


def plot_frontier(table: Table) -> Plot:
    """Hallucination rate against time and against quality, a marker per method; the Pareto set is filled."""
    records = [row for row in table.records() if row["hallucination_rate"] is not None]
    models = list(dict.fromkeys(str(row["model"]) for row in records))
    has_ratio = all(row["latency_ratio"] is not None for row in records)
    latency = ("latency_ratio", "time (× baseline)") if has_ratio else ("latency_ms", "time (ms per answer)")
    metrics = list(dict.fromkeys(str(row["quality_metric"]) for row in records if row["quality_metric"]))
    sides = [latency, *([("quality", metrics[0])] if len(metrics) == 1 else [])]
    with paper_look():
        figure, axes = panel_grid(len(sides), columns=2, sharey=True)
        for axis, (name, label) in zip(axes, sides, strict=True):
            for index, row in enumerate(records):
                style = look(index)
                fill = style.color if row["pareto"] else "white"
                shown = str(row["row"]) if len(models) == 1 else f"{row['model']} · {row['row']}"
                options = {"color": style.color, "marker": style.marker, "markerfacecolor": fill, "linestyle": "none"}
                y = 100 * floats([row], "hallucination_rate")
                axis.plot(floats([row], name), y, label=shown, markersize=6, **options)
                if row[f"{name}_low"] is not None:
                    bounds = [*floats([row], f"{name}_low"), *floats([row], f"{name}_high")]
                    axis.plot(bounds, [*y, *y], color=style.color, linewidth=0.8)
            axis.set(xlabel=label)
        axes[0].set_ylabel("hallucination rate (%)")
        legend_below(figure)
    caption = (
        "Filled: the Pareto set of hallucination rate and caption quality, for each model by itself. Lines: the middle "
        "half of batches, of quality its 95 % interval."
    )
    return Plot(figure=figure, data=table, caption=caption)


def frontier_findings(runs: Sequence[Run]) -> list[Finding]:
    """All methods in three dimensions.

    Raises:
        NothingToShowError: where no run answers yes/no questions.
    """
    table, notes = frontier_table(runs)
    plots = tuple(functools.partial(plot_frontier, part) for part in by_model(table))
    return [Finding(title="frontier", tables=(table,), plots=plots, notes=tuple(notes))]
