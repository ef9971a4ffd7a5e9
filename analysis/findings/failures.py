"""Where answers are wrong: by the object's size, its distance to the border, and what it is usually seen with.

Captions are divided by the objects that they hallucinate or miss.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._benchmarks import Found, SampleRecord, mean_intervals, wilson
from ..drawing.panels import draw_intervals, legend_below, panel_grid
from ..drawing.style import Plot, look, paper_look
from ..drawing.tables import Cell, Table, by_model
from ..reading.load import NothingToShowError, Run, model_labels
from ..reading.marking import object_names
from ..reading.pairs import Pair, caption_pairs, find_pairs
from ..reading.rows import DIAGNOSTICS, baseline_runs
from ..reading.trace import numbers
from .finding import Finding

BORDER = 0.05
"""Distance to the border, as share of the image, up to which an object counts as lying there."""
OBJECTS = 8
"""So many objects are shown of those that captions most often hallucinate, and as many of those that they miss."""
_COLUMNS = (
    "model", "task", "row", "by", "bin", "kind", "wrong", "wrong_low", "wrong_high", "change", "change_low",
    "change_high", "wrong→right", "right→wrong", "questions", "images",
)  # fmt: skip


class Stratum(NamedTuple):
    """Some of a run's questions.

    Attributes:
        by: what they were divided by.
        label: which part this is.
        kind: what can go wrong in it: "missed" a present object, or "hallucinated" an absent one.
        ids: names of the samples.
        node: the object of captions; None for questions, which have one each.
    """

    by: str
    label: str
    kind: str
    ids: frozenset[str]
    node: str | None = None


def failure_strata(samples: Sequence[SampleRecord]) -> tuple[list[Stratum], list[str]]:
    """The parts of a yes/no run's questions, and sentences about divisions that the records do not allow."""
    present = [sample for sample in samples if sample.target == "yes"]
    absent = [sample for sample in samples if sample.target == "no"]
    area, border, together = (
        numbers(present, "object", "area"),
        numbers(present, "object", "border"),
        co_occurrence(samples),
    )
    strata: list[Stratum] = []
    notes: list[str] = []
    if np.isfinite(area).any():
        edges = np.nanquantile(area, [1 / 3, 2 / 3])
        sizes = (f"small (≤{edges[0]:.3f})", "medium", f"large (>{edges[1]:.3f})")
        strata += _split(present, area, list(edges), "object size", sizes, "missed")
    else:
        notes.append(f"not by object size: no trace has an object's area. {DIAGNOSTICS}.")
    if np.isfinite(border).any():
        labels = (f"border (≤{BORDER:g})", "interior")
        strata += _split(present, border, [BORDER], "position", labels, "missed")
    else:
        notes.append(f"not by position: no trace has an object's distance to the border. {DIAGNOSTICS}.")
    with_any = together[np.isfinite(together)]
    if not len(with_any):
        notes.append("not by co-occurrence: no absent object is asked about as present in another image.")
    else:
        some = with_any[with_any > 0]
        edges = np.array([0.0, np.median(some)]) if len(some) else np.array([0.0])
        strata += _split(absent, together, list(edges), "co-occurrence", ("never", "rare", "frequent"), "hallucinated")
    return strata, notes


def caption_strata(samples: Sequence[SampleRecord]) -> list[Stratum]:
    """Per object the graded captions that could hallucinate it, its image lacks it, and those that could miss it."""
    graded = [(sample, sample.found) for sample in samples if sample.found is not None]
    names = sorted(object_names(samples))
    strata: list[Stratum] = []
    for kind in ("hallucinated", "missed"):
        wrong = [found["missed"] if kind == "missed" else found["hallucinated"] for _, found in graded]
        counted = {name: sum(name in one for one in wrong) for name in names}
        for name in sorted((name for name in names if counted[name]), key=lambda name: -counted[name])[:OBJECTS]:
            asked = [one.id for one, found in graded if _is_there(found, name) == (kind == "missed")]
            strata.append(Stratum(f"objects {kind}", name, kind, frozenset(asked), name))
    return strata


def _is_there(found: Found, name: str) -> bool:
    return name in found["grounded"] or name in found["missed"]


def co_occurrence(samples: Sequence[SampleRecord]) -> NDArray[np.float64]:
    """How usual each absent object is beside what is there, (number of samples with target no,), NaN where unknown.

    max over the image's present objects b of P(a | b): of the other images in which b was asked about and is there, the
    share in which the absent object a was too. An object is known by its question, so that the records suffice; objects
    that were not asked about do not count.
    """
    where: dict[str, set[str]] = {}
    shown: dict[str, list[str]] = {}
    for sample in samples:
        if sample.target == "yes":
            where.setdefault(sample.prompt, set()).add(sample.image)
            shown.setdefault(sample.image, []).append(sample.prompt)
    found = []
    for sample in samples:
        if sample.target == "no":
            own = where.get(sample.prompt, set())
            others = [where[prompt] - {sample.image} for prompt in shown.get(sample.image, [])] if own else []
            found.append(max((len(own & images) / len(images) for images in others if images), default=np.nan))
    return np.array(found, dtype=np.float64)


def failure_table(runs: Sequence[Run]) -> tuple[Table, list[str]]:
    """A row per run and stratum: share of wrong answers, and for methods the change to the baseline.

    Raises:
        NothingToShowError: where no baseline can be divided.
    """
    labels = model_labels(runs)
    baselines, notes = baseline_runs(runs)
    described, more = baseline_runs(runs, captions=True)
    pairs = find_pairs(runs)
    graded = caption_pairs(pairs)
    notes += [*more, *graded.problems]
    lines: list[tuple[Cell, ...]] = []
    for baseline in (*baselines, *described):
        model, task = labels[baseline.model], baseline.record.task
        if baseline.is_yes_no:
            strata, told = failure_strata(baseline.samples)
            notes += [f"{model} on {task}: {note}" for note in told]
        else:
            strata = caption_strata(baseline.samples)
        own = [pair for pair in (pairs if baseline.is_yes_no else graded).pairs if pair.baseline is baseline]
        for stratum in strata:
            lines.append((model, task, baseline.row, *stratum[:3], *_rates(stratum, baseline.samples, None)))
            lines += [(model, task, pair.row, *stratum[:3], *_rates(stratum, pair.before, pair)) for pair in own]
    if not lines:
        raise NothingToShowError(
            f"no failures to divide: got {len(baselines)} baselines of yes/no tasks without objects' sizes and places, "
            f"and {len(described)} with graded captions; expected trace['object'], or objects in captions. "
            f"{DIAGNOSTICS}, or `--tasks chair`."
        )
    table = Table(
        name="failures",
        title="Wrong answers by object size, position and co-occurrence, wrong captions by object",
        columns=_COLUMNS,
        rows=tuple(lines),
        percent=frozenset(name for name in _COLUMNS if name.startswith(("wrong_", "change")) or name == "wrong"),
        notes=(
            "Missed: present objects without a yes; hallucinated: absent objects with one. Sizes are thirds of the "
            "baseline's present objects. Co-occurrence counts objects that were asked about. Of captions: those that "
            "name the object, of images that lack it, and those that do not, of images that have it; the objects with "
            "which that happens to the baseline most often. Intervals: 95 %, of shares Wilson's, of changes images "
            "resampled.",
        ),
    )
    return table, [*notes, *pairs.problems]


def _split(
    samples: Sequence[SampleRecord],
    values: NDArray[np.float64],
    edges: list[float],
    by: str,
    labels: Sequence[str],
    kind: str,
) -> list[Stratum]:
    """One stratum per range of values, upper edges included; empty ones are left out."""
    number = np.searchsorted(np.asarray(edges), values, side="left")
    strata = []
    for index, label in enumerate(labels[: len(edges) + 1]):
        ids = frozenset(samples[row].id for row in np.flatnonzero((number == index) & np.isfinite(values)).tolist())
        if ids:
            strata.append(Stratum(by, label, kind, ids))
    return strata


def _rates(stratum: Stratum, samples: Sequence[SampleRecord], pair: Pair | None) -> list[Cell]:
    rows = [row for row, sample in enumerate(samples) if sample.id in stratum.ids]
    images = [samples[row].image for row in rows]
    before = np.array([_is_wrong(samples[row], stratum) for row in rows])
    counts: list[Cell] = [len(rows), len(set(images))]
    if pair is None:
        return [*_share(before), *[None] * 5, *counts]
    after = np.array([_is_wrong(pair.after[row], stratum) for row in rows])
    [(change, bounds)] = mean_intervals((after - before).reshape(-1, 1), images)
    turned = [int((before > after).sum()), int((before < after).sum())]
    return [*_share(after), change, *bounds, *turned, *counts]


def _share(wrong: NDArray[np.float64]) -> list[Cell]:
    bounds = wilson(int(wrong.sum()), len(wrong))
    return [None, None, None] if bounds is None else [float(wrong.mean()), *bounds]


def _is_wrong(sample: SampleRecord, stratum: Stratum) -> float:
    if stratum.node is not None and sample.found is not None:
        return float(
            stratum.node in (sample.found["missed"] if stratum.kind == "missed" else sample.found["hallucinated"])
        )
    return float(sample.outcome != "tp") if stratum.kind == "missed" else float(sample.outcome == "fp")


def plot_failures(table: Table) -> Plot:
    """A panel per model, task and division, a line per method over its parts."""
    records = list(table.records())
    divisions = list(dict.fromkeys(str(row["by"]) for row in records))
    panels = list(dict.fromkeys((str(row["model"]), str(row["task"]), str(row["by"])) for row in records))
    rows = list(dict.fromkeys(str(row["row"]) for row in records))
    with paper_look():
        figure, axes = panel_grid(len(panels), columns=min(3, len(divisions)))
        for axis, panel in zip(axes, panels, strict=True):
            own = [row for row in records if (row["model"], row["task"], row["by"]) == panel]
            bins = list(dict.fromkeys(str(row["bin"]) for row in own))
            for index, name in enumerate(rows):
                mine = [row for row in own if row["row"] == name]
                # Side by side, so that intervals do not hide each other.
                x = [bins.index(str(row["bin"])) + 0.4 * ((index + 0.5) / len(rows) - 0.5) for row in mine]
                if mine:
                    draw_intervals(axis, x, mine, "wrong", look(index), label=name)
            axis.set_xticks(range(len(bins)), labels=[label.partition(" (")[0] for label in bins])
            axis.set(title=f"{panel[1]} · {panel[2]}", ylabel=f"{own[0]['kind']} (%)", ylim=(0, None))
        legend_below(figure)
    caption = "Share of wrong answers by what is asked about, of captions by object; bars: 95 % intervals."
    return Plot(figure=figure, data=table, caption=caption)


def failure_findings(runs: Sequence[Run]) -> list[Finding]:
    """Where answers are wrong, and which of them methods turn.

    Raises:
        NothingToShowError: where the records do not tell.
    """
    table, notes = failure_table(runs)
    plots = tuple(functools.partial(plot_failures, part) for part in by_model(table))
    return [Finding(title="failures", tables=(table,), plots=plots, notes=tuple(dict.fromkeys(notes)))]
