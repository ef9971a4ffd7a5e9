"""Which run is compared with which. Runs on different questions are never paired silently."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .._benchmarks import BASELINE, Comparison, SampleRecord, compare_tables, computed_otherwise, yes_no_table
from .load import NothingToShowError, Run, model_labels, row_labels

_GRADED = 2  # the schema from which on captions hold what was found in them


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """A method's run and its baseline's, sample by sample.

    Attributes:
        model: short name of the model.
        task: name of the task.
        row: the method's name in tables, unique among the runs of its model and task where the records tell.
        baseline_row: the baseline's, likewise.
        baseline: the run of the model as it is.
        method: the run of the method.
        before: the baseline's samples that the method has too, in the baseline's order.
        after: the method's samples, likewise.
    """

    model: str
    task: str
    row: str
    baseline_row: str
    baseline: Run
    method: Run
    before: tuple[SampleRecord, ...]
    after: tuple[SampleRecord, ...]


class Pairing(NamedTuple):
    """All pairs, and sentences about the runs that have no partner or only a part of one."""

    pairs: tuple[Pair, ...]
    problems: tuple[str, ...]


def find_pairs(runs: Sequence[Run]) -> Pairing:
    """Pair every run with the baseline of its setting: of the same prompt if there is one, else of the default."""
    models, rows = model_labels(runs), row_labels(runs)
    baselines = [run for run in runs if run.is_baseline]
    pairs: list[Pair] = []
    problems: list[str] = []
    for run in runs:
        same = [one for one in baselines if one.setting == run.setting]
        wanted = ("default",) if run.is_baseline else (run.record.prompt, "default")
        found = next((one for prompt in wanted for one in same if one.record.prompt == prompt), None)
        if found is run:
            continue
        if found is None:
            if not run.is_baseline:
                problems.append(_no_baseline(run, baselines))
            continue
        before, after, problem = _match(found, run)
        if problem:
            problems.append(problem)
        if before and (how := computed_otherwise(run.record, found.record)):
            problems.append(
                f"two runs were not computed alike: got {how} in {run.folder} and {found.folder}; expected one way, as "
                "a near-tie can flip. They are compared all the same; run both with one command."
            )
        if before:
            pairs.append(
                Pair(
                    model=models[run.model],
                    task=run.record.task,
                    row=rows[run.folder],
                    baseline_row=rows[found.folder],
                    baseline=found,
                    method=run,
                    before=before,
                    after=after,
                )
            )
    pairs.sort(key=lambda pair: (pair.model, pair.task, pair.method.record.method, pair.row))
    return Pairing(tuple(pairs), tuple(problems))


def yes_no_pairs(runs: Sequence[Run]) -> Pairing:
    """The pairs of yes/no tasks.

    Raises:
        NothingToShowError: where there is none.
    """
    found = find_pairs(runs)
    pairs = tuple(pair for pair in found.pairs if pair.baseline.is_yes_no)
    if not pairs:
        raise NothingToShowError(
            f"no method to compare with the baseline on a yes/no task: got {sorted({run.row for run in runs})} on "
            f"{sorted({run.record.task for run in runs})}; expected {BASELINE!r} and a method on the same questions. "
            + (found.problems[0] if found.problems else "Run `python -m benchmarks.run --method scr --tasks pope`.")
        )
    return Pairing(pairs, found.problems)


def caption_pairs(found: Pairing) -> Pairing:
    """The pairs of captions that both runs hold a grade of; and sentences about those that have none."""
    pairs: list[Pair] = []
    problems: dict[str, None] = {}
    for pair in found.pairs:
        if pair.baseline.is_yes_no:
            continue
        graded = [
            (one, other)
            for one, other in zip(pair.before, pair.after, strict=True)
            if one.found is not None and other.found is not None
        ]
        if graded:
            before, after = zip(*graded, strict=True)
            pairs.append(dataclasses.replace(pair, before=before, after=after))
        for run in (pair.baseline, pair.method):
            if run.record.schema < _GRADED and any(one.found is None and one.error is None for one in run.samples):
                problems[
                    f"captions are not graded: got {run.folder} of schema {run.record.schema}, which held no grade per "
                    f"caption; expected {_GRADED} or later. Run `python -m benchmarks.run --rescore` on their folder."
                ] = None
    return Pairing(tuple(pairs), tuple(problems))


def compare_rates(before: Sequence[SampleRecord], after: Sequence[SampleRecord]) -> Comparison:
    """`benchmarks.stats.compare_yes_no` without the area under the ROC curve, whose resamples take most of the time."""
    return compare_tables(*(dataclasses.replace(yes_no_table(samples), margins=None) for samples in (before, after)))


def _match(baseline: Run, method: Run) -> tuple[tuple[SampleRecord, ...], tuple[SampleRecord, ...], str | None]:
    """The samples that both have, and what is to be said; none where one of them is another question."""
    others = {sample.id: sample for sample in method.samples}
    before = [sample for sample in baseline.samples if sample.id in others]
    after = [others[sample.id] for sample in before]
    where = f"{method.folder} and {baseline.folder}"
    for one, other in zip(before, after, strict=True):
        if (one.image, one.target) != (other.image, other.target):
            return (
                (),
                (),
                (
                    f"two runs ask different questions and are not paired: got sample {one.id!r} with (image, target) "
                    f"{(one.image, one.target)} and {(other.image, other.target)} in {where}; expected one question. "
                    "Each is still shown alone; run both with the same data and seed."
                ),
            )
    if not before:
        return (
            (),
            (),
            (
                f"two runs share no sample and are not paired: got {where}; expected the same questions. "
                "Each is still shown alone; run both with the same data and seed."
            ),
        )
    alone = (len(baseline.samples) - len(before), len(method.samples) - len(before))
    if any(alone):
        return (
            tuple(before),
            tuple(after),
            (
                f"two runs have different samples: got {alone[0]} only in the baseline and {alone[1]} only in the "
                f"method of {where}; expected the same. The {len(before)} that both have are compared; run both with "
                "one --limit."
            ),
        )
    return tuple(before), tuple(after), None


def _no_baseline(run: Run, baselines: Sequence[Run]) -> str:
    near = [one for one in baselines if one.model == run.model and one.record.task == run.record.task]
    if not near:
        return (
            f"a run has no baseline and is not compared: got {run.folder}; expected a run of {BASELINE!r} on the same "
            "model and task. It is still shown alone; run the baseline with the same command."
        )
    differ = [
        f"{name} {getattr(run.setting, name)} against {getattr(near[0].setting, name)}"
        for name in run.setting._fields
        if getattr(run.setting, name) != getattr(near[0].setting, name)
    ]
    return (
        f"a run and its baseline ask different questions and are not paired: got {'; '.join(differ)} in {run.folder} "
        f"and {near[0].folder}; expected the same. Each is still shown alone; run both with one command."
    )
