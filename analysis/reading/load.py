"""A folder of results → its runs, and sentences about what could not be read: one bad run does not hide the others."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from scr.files import DataFileError, read_json

from .._benchmarks import (
    BASELINE,
    READABLE,
    RUN_FILE,
    RecordError,
    RunFolder,
    RunRecord,
    SampleRecord,
    find_runs,
    first_images,
)
from ..drawing.escaping import printable

_NAMED = 3  # folders that a sentence names before it only counts


class ResultsError(ValueError):
    """A folder of results holds nothing that can be read."""


class NothingToShowError(ResultsError):
    """The runs are fine, but do not hold what one analysis needs; the message says what, and how to get it."""


class Setting(NamedTuple):
    """What two runs must share to have been asked the same questions in the same way; `generation` as JSON text."""

    model: str
    revision: str | None
    dtype: str
    task: str
    task_version: int
    rule: str
    data_sha256: str
    seed: int
    generation: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One run: its record and its samples.

    Attributes:
        folder: where it was read.
        record: what was run.
        samples: what came out, in the order of the file; none of those that a longer run left beyond its limit.
    """

    folder: Path
    record: RunRecord
    samples: tuple[SampleRecord, ...]

    @property
    def row(self) -> str:
        """The method's name, with the adapter and the prompt variant where there are any."""
        extras = [self.record.adapter] if self.record.adapter else []
        if self.record.prompt != "default":
            extras.append(f"prompt {self.record.prompt}")
        return ", ".join([self.record.method, *extras])

    @property
    def is_baseline(self) -> bool:
        """Whether this is the model as it is, without method and adapter."""
        return self.record.method == BASELINE and not self.record.adapter

    @property
    def is_yes_no(self) -> bool:
        """Whether its answers are graded as yes or no."""
        return any(sample.outcome is not None for sample in self.samples)

    @property
    def has_grades(self) -> bool:
        """Whether its samples hold what was found in captions."""
        return any(sample.found is not None for sample in self.samples)

    @property
    def setting(self) -> Setting:
        """What a run to compare it with must share."""
        one = self.record
        generation = json.dumps(one.generation, sort_keys=True)
        return Setting(
            one.model,
            one.revision,
            one.dtype,
            one.task,
            one.task_version,
            one.rule,
            one.data_sha256,
            one.seed,
            generation,
        )

    @property
    def model(self) -> tuple[str, str | None, str]:
        """Name, revision and number format: the same weights give the same answers."""
        return (self.record.model, self.record.revision, self.record.dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class Results:
    """All runs of a folder.

    Attributes:
        root: the folder.
        runs: those that could be read, sorted by path.
        problems: sentences about the others, and about runs that are not finished.
        folders: problem → the folder of the run that it is about, if it is about one.
    """

    root: Path
    runs: tuple[Run, ...]
    problems: tuple[str, ...] = ()
    folders: Mapping[str, Path] = field(default_factory=dict)


def load_results(root: Path | str) -> Results:
    """Read all runs below a folder that `benchmarks.run` wrote.

    Raises:
        ResultsError: where there is no folder, no run in it, or none that can be read.
    """
    root = Path(root)
    if not root.is_dir():
        raise ResultsError(
            f"no folder of results: got {root}; expected what --output-dir of benchmarks.run named. Check the path."
        )
    folders = find_runs(root)
    if not folders:
        raise ResultsError(
            f"the folder holds no run: got {root}; expected <task>/<model>/<method>-<hash>/{RUN_FILE} below it. "
            "Run `python -m benchmarks.run --method scr` first, or name the folder above the tasks."
        )
    runs: list[Run] = []
    problems: list[str] = []
    places: dict[str, Path] = {}
    others: dict[str, list[Path]] = {}
    for folder in folders:
        schema = _other_schema(folder.path)
        if schema is not None:
            others.setdefault(schema, []).append(folder.path)
            continue
        run, problem = _read(folder)
        if run is not None:
            runs.append(run)
        if problem:
            problems.append(problem)
            places[problem] = folder.path
    if others:
        ours = " or ".join(map(str, READABLE))
        found = "; ".join(f"{len(paths)} of schema {name} ({_named(paths)})" for name, paths in sorted(others.items()))
        problems.insert(
            0,
            f"runs of another schema version: got {found} beside {len(runs)} of schema {ours}; expected {ours}. "
            f"Only the {len(runs)} are shown: read the others with the version of scr-vlm that wrote them.",
        )
    if not runs:
        raise ResultsError(f"no run can be read: got {len(folders)} below {root}; expected one at least. {problems[0]}")
    return Results(root=root, runs=tuple(runs), problems=tuple(problems), folders=places)


def model_labels(runs: Iterable[Run]) -> dict[tuple[str, str | None, str], str]:
    """A short name for each model: of a path the last part; with the revision or dtype where two would be the same."""
    models = sorted({run.model for run in runs}, key=str)
    labels = {
        model: model[0].rstrip("/").rpartition("/")[2] if model[0].startswith(("/", ".")) else model[0]
        for model in models
    }
    for part in (1, 2, 0):
        for name in {label for label in labels.values() if list(labels.values()).count(label) > 1}:
            twins = [model for model in models if labels[model] == name]
            if len({model[part] for model in twins}) > 1:
                for model in twins:
                    extra = str(model[part]).removeprefix("sha256:")
                    labels[model] = f"{name} ({extra[:8] if part == 1 else extra})"
    return labels


def row_labels(runs: Sequence[Run]) -> dict[Path, str]:
    """Folder → the run's row; where runs of one model and task share it, with that in which they differ."""
    labels = {run.folder: run.row for run in runs}
    groups: dict[tuple[Setting, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.setting, run.row), []).append(run)
    for group in groups.values():
        if len(group) > 1:
            for run, told in zip(group, _deviations([flat_config(run.record.config) for run in group]), strict=True):
                labels[run.folder] += f" ({told})" if told else ""
    _tell_settings_apart(runs, labels)
    return labels


def told_apart(settings: Sequence[Setting]) -> list[str]:
    """That in which each setting differs from some other, as "data 4f3a21, task version 2"; "" where none does."""
    names = [name for name in Setting._fields if len({getattr(one, name) for one in settings}) > 1]
    return [", ".join(_told(one, name) for name in names) for one in settings]


def flat_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration without nesting: {"a": {"b": 1}} is {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flat_config(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def short_value(value: Any) -> str:
    """A setting as text: numbers with four digits, so that 0.12089824676513672 fits on an axis."""
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _tell_settings_apart(runs: Sequence[Run], labels: dict[Path, str]) -> None:
    """Add to equal labels of one model and task what differs in their settings: sampling first, data and seed next."""
    fields = ("data_sha256", "seed", "rule", "task_version", "generation")
    tellers: list[Callable[[Run], str]] = [_sampling, *(functools.partial(_field, name=name) for name in fields)]
    for told in tellers:
        groups: dict[tuple[Any, str, str], list[Run]] = {}
        for run in runs:
            groups.setdefault((run.model, run.record.task, labels[run.folder]), []).append(run)
        for group in groups.values():
            if len({told(run) for run in group}) > 1:
                for run in group:
                    labels[run.folder] += f", {told(run)}" if told(run) else ""


def _sampling(run: Run) -> str:
    return "sampled" if run.record.generation.get("do_sample") else ""


def _field(run: Run, name: str) -> str:
    return _told(run.setting, name)


def _told(setting: Setting, name: str) -> str:
    value = getattr(setting, name)
    return f"data {value[:6]}" if name == "data_sha256" else f"{name.replace('_', ' ')} {value}"


def _deviations(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each configuration says otherwise than most do; of a field without a majority, what it says."""
    told: list[list[str]] = [[] for _ in configs]
    for name in dict.fromkeys(key for config in configs for key in config):
        values = [json.dumps(config.get(name), sort_keys=True) for config in configs]
        usual = max(values, key=values.count)
        if 2 * values.count(usual) <= len(values):
            usual = ""
        for parts, config, value in zip(told, configs, values, strict=True):
            if value != usual and name in config:
                parts.append(f"{name}={short_value(config[name])}")
    return [", ".join(parts) for parts in told]


def _read(folder: RunFolder) -> tuple[Run | None, str | None]:
    """The run, and what is to be said about it."""
    try:
        record, samples = folder.read_run(), folder.samples()
    except (RecordError, OSError) as error:
        return None, f"a run cannot be read and is left out: {error}"
    if record is None:
        return None, (
            f"a run has no record and is left out: got {folder.path} without {RUN_FILE}; expected one. "
            "Go on with the command that began it."
        )
    samples = first_images(samples, record.limit)
    if not samples:
        return None, (
            f"a run has no samples and is left out: got {folder.path} with status {record.status!r}; "
            "expected one or more. Run it again."
        )
    problem = None
    if record.status != "finished":
        problem = (
            f"a run is not finished: got {folder.path} with status {record.status!r}; expected 'finished'. "
            f"Its {len(samples)} samples so far are shown; run its command again to go on."
        )
    # Labels, tables and figures take their words from it.
    record = RunRecord.from_dict(printable(record.to_dict()))
    return Run(folder=folder.path, record=record, samples=tuple(samples)), problem


def _other_schema(path: Path) -> str | None:
    """The schema of a record that is not ours, as text; None where it is, or where that cannot be told."""
    try:
        data = read_json(path / RUN_FILE)
    except DataFileError:
        return None
    if not isinstance(data, dict) or data.get("schema") in READABLE:
        return None
    return repr(data.get("schema"))


def _named(paths: Sequence[Path]) -> str:
    more = len(paths) - _NAMED
    return ", ".join(map(str, paths[:_NAMED])) + (f" and {more} more" if more > 0 else "")
