"""Questions about absent objects, a row each: was there a hallucination, and how concentrated was the attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .._benchmarks import SampleRecord
from .load import NothingToShowError, Run, model_labels
from .trace import MEASURES, largest_entropy, number

DIAGNOSTICS = "Run `python -m benchmarks.run --diagnostics entropy,credit --tasks pope`"


@dataclass(frozen=True, kw_only=True, eq=False)
class AbsentRows:
    """n questions about absent objects that the unpatched models answered, with a measure each.

    Attributes:
        measure: a key of `analysis.reading.trace.MEASURES`.
        models: (n,) short names.
        tasks: (n,) names.
        images: (n,) names; the same image keeps its name over models and tasks.
        values: (n,) the measure.
        hallucinated: (n,) whether the answer was yes.
        objects: (n,) number of object categories in the image; NaN where not recorded.
        size: (n,) mean share of the image of the objects that the same run asked about and that are there: an absent
            object has no size. NaN where not recorded.
        largest: model → log N of its grids, None where the traces do not tell.
        notes: sentences about what was left out.
    """

    measure: str
    models: NDArray[np.str_]
    tasks: NDArray[np.str_]
    images: NDArray[np.str_]
    values: NDArray[np.float64]
    hallucinated: NDArray[np.bool_]
    objects: NDArray[np.float64]
    size: NDArray[np.float64]
    largest: dict[str, float | None]
    notes: tuple[str, ...]

    @property
    def strata(self) -> list[str]:
        """Model and task of each, which a permutation does not mix."""
        return [f"{model}\n{task}" for model, task in zip(self.models, self.tasks, strict=True)]

    def of_model(self, model: str) -> NDArray[np.int64]:
        """The rows of a model."""
        return np.flatnonzero(self.models == model)


def baseline_runs(runs: Sequence[Run], *, captions: bool = False) -> tuple[list[Run], list[str]]:
    """One run of the unpatched model per model and task, and sentences about those passed over.

    Of yes/no tasks, or of those whose captions are graded. The default prompt goes before others, greedy decoding
    before sampling, more samples before fewer.
    """
    labels = model_labels(runs)
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if run.is_baseline and (run.has_grades if captions else run.is_yes_no):
            groups.setdefault((labels[run.model], run.record.task), []).append(run)
    chosen, notes = [], []
    for (model, task), group in groups.items():
        group.sort(
            key=lambda run: (
                run.record.prompt != "default",
                bool(run.record.generation.get("do_sample")),
                -len(run.samples),
                str(run.folder),
            )
        )
        chosen.append(group[0])
        if len(group) > 1:
            notes.append(
                f"{model} on {task} has {len(group)} baselines; {group[0].folder} is used, the others (prompt, "
                "sampling or seed differ) are not."
            )
    return chosen, notes


def absent_rows(runs: Sequence[Run], measure: str = "entropy") -> AbsentRows:
    """The rows of all models and yes/no tasks.

    Raises:
        NothingToShowError: where there is no such run, or none holds the measure.
        ValueError: for an unknown measure.
    """
    if measure not in MEASURES:
        raise ValueError(f"unknown measure: got {measure!r}; expected one of {', '.join(MEASURES)}. Name one of these.")
    labels = model_labels(runs)
    chosen, notes = baseline_runs(runs)
    if not chosen:
        raise NothingToShowError(
            f"no answers of an unpatched model to yes/no questions: got rows {sorted({run.row for run in runs})}; "
            f"expected 'none' on a yes/no task. {DIAGNOSTICS}."
        )
    kept: list[tuple[str, str, SampleRecord, float]] = []
    for run in chosen:
        model, sizes = labels[run.model], _image_sizes(run.samples)
        asked = [sample for sample in run.samples if sample.outcome in ("fp", "tn")]
        having = [sample for sample in asked if np.isfinite(number(sample, measure))]
        if asked and not having:
            notes.append(f"{model} on {run.record.task} has no {MEASURES[measure]} in its records. {DIAGNOSTICS}.")
        elif len(having) < len(asked):
            notes.append(
                f"{model} on {run.record.task}: {len(asked) - len(having)} of {len(asked)} questions have no "
                f"{MEASURES[measure]} and are left out."
            )
        unparsed = sum(sample.outcome is None and sample.target == "no" for sample in run.samples)
        if unparsed:
            notes.append(
                f"{model} on {run.record.task}: {unparsed} unparsed answers about absent objects are left out."
            )
        kept += [(model, run.record.task, sample, sizes.get(sample.image, np.nan)) for sample in having]
    if not kept:
        raise NothingToShowError(
            f"no record holds the {MEASURES[measure]}: got {len(chosen)} baseline runs without it; expected "
            f"trace[{measure!r}] of questions about absent objects. {DIAGNOSTICS}."
        )
    models = [row[0] for row in kept]
    return AbsentRows(
        measure=measure,
        models=np.array(models, dtype=np.str_),
        tasks=np.array([row[1] for row in kept], dtype=np.str_),
        images=np.array([row[2].image for row in kept], dtype=np.str_),
        values=np.array([number(row[2], measure) for row in kept]),
        hallucinated=np.array([row[2].outcome == "fp" for row in kept], dtype=bool),
        objects=np.array([number(row[2], "objects") for row in kept]),
        size=np.array([row[3] for row in kept], dtype=np.float64),
        largest={name: largest_entropy(row[2] for row in kept if row[0] == name) for name in dict.fromkeys(models)},
        notes=tuple(notes),
    )


def _image_sizes(samples: Sequence[SampleRecord]) -> dict[str, float]:
    """Image → mean share of the objects asked about that are there."""
    areas: dict[str, list[float]] = {}
    for sample in samples:
        area = number(sample, "object", "area")
        if sample.target == "yes" and np.isfinite(area):
            areas.setdefault(sample.image, []).append(area)
    return {image: float(np.mean(found)) for image, found in areas.items()}
