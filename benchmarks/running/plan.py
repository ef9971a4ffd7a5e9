"""What a command will run, worked out before any weight is loaded: which samples, which batches, which folders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import scr
from scr import ConfigError
from scr.adapters import AdapterSource
from scr.errors import suggestion

from ..asking import sampling
from ..asking.generation import SAMPLING, check_generation
from ..asking.models import ModelSource, find_model, resolve_device, resolve_dtype, skeleton
from ..lab import data_folder, splits_of
from ..records import DIAGNOSTICS
from ..store import RunFolder, config_hash
from ..tasks import expand_tasks, load_task
from ..tasks.base import Sample, Task, TaskData
from ..tasks.coco import CocoData
from .adapters import check_learnt, check_overlap, resolve_adapter
from .methods import BASELINE, check_methods, effective_configs, given_configs, recorded_config
from .prompts import get_prompt

LAB_SPLIT = "test"
LAB_IMAGES = 500
"""Images of the lab's default data. Fixed, as POPE's negatives depend on all images of the data set."""

GREEDY_ROW = "none, greedy"
"""What stands beside the baseline wherever answers are sampled: the model as it is, decoded greedily."""

STOP, RECORD = ON_ERROR = ("stop", "record")
"""What a run does when a question cannot be asked: it ends there, or records a failure and goes on."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One command: a model, methods, tasks, and how to run them.

    Attributes:
        model: lab name, local folder or hub id.
        revision: branch, tag or commit of a hub model.
        dtype: "auto", or one of `benchmarks.asking.models.DTYPES`.
        device: "auto", "cpu", "cuda", "cuda:N".
        attn_implementation: None leaves it to transformers.
        methods: names of `scr.list_methods()`, or several of them with "+" between, which are nested in that order, or
            "none"; the baseline "none" is added where it is missing.
        method_args: fields of the methods' configurations, as JSON values: "FIELD" of all methods, "NAME.FIELD" of one
            alone, which wins.
        prompt: a variant of `benchmarks.running.prompts.PROMPTS`.
        adapter: a lab name, a name of `scr.list_adapters()`, a folder or a hub id; the model without it is run beside.
        allow_overlap: measure an adapter on images that it was, or may have been, trained on, too; and a method on
            images that it was calibrated on.
        tasks: names of tasks or of groups of them.
        limit: number of images, the first of the data set (of units, where a task has others); None for all.
        batch_size: samples per batch.
        seed: of the questions that are drawn, and of sampling.
        generation: arguments of `generate`, over greedy decoding and the task's `max_new_tokens`.
        data_dir: folder in the tasks' layout, mostly COCO's; None for the lab's data, with a lab model.
        split: which annotations of it; None for the only one, or the usual one.
        output_dir: where the records go.
        overwrite: discard what is recorded for these runs, instead of going on from there.
        diagnostics: names of `benchmarks.records.DIAGNOSTICS`, measured beside the answers; no part of a
            run's identity.
        on_error: of `ON_ERROR`, for a picture that cannot be read or that the model's processor refuses; no part of a
            run's identity either.
        command: the command line, for the record.
    """

    model: str = "lab/llava"
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    attn_implementation: str | None = None
    methods: tuple[str, ...] = ("scr",)
    method_args: Mapping[str, Any] = field(default_factory=dict)
    prompt: str = "default"
    adapter: str | None = None
    allow_overlap: bool = False
    tasks: tuple[str, ...] = ("pope", "chair")
    limit: int | None = 100
    batch_size: int = 50
    seed: int = 0
    generation: Mapping[str, Any] = field(default_factory=dict)
    data_dir: Path | None = None
    split: str | None = None
    output_dir: Path = Path("results")
    overwrite: bool = False
    diagnostics: tuple[str, ...] = ()
    on_error: str = STOP
    command: str = ""

    def __post_init__(self) -> None:
        """Check what can be checked without a model.

        Raises:
            ConfigError: for a value out of range.
        """
        for name, value in (("limit", self.limit), ("batch_size", self.batch_size)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} out of range: got {value}; expected 1 or more. Give a positive number.")
        for name in ("methods", "tasks"):
            if not getattr(self, name):
                raise ConfigError(f"no {name}: got none; expected at least one name. See --list {name}.")
        object.__setattr__(self, "methods", tuple(map(str.lower, self.methods)))
        for name in self.diagnostics:
            if name not in DIAGNOSTICS:
                raise ConfigError(
                    f"unknown diagnostics: got {name!r}; expected one of {', '.join(DIAGNOSTICS)}. "
                    f"{suggestion(name, list(DIAGNOSTICS))}"
                )
        if self.on_error not in ON_ERROR:
            raise ConfigError(
                f"unknown way with errors: got {self.on_error!r}; expected one of {', '.join(ON_ERROR)}. Choose one."
            )
        check_generation(self.generation)


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskWork:
    """What there is to do of one task on one data set.

    Attributes:
        task: the task.
        samples: every sample of the data set, in the task's order, grouped by image.
        wanted: how many of them, from the start, belong to the images asked for.
        batch_size: samples per batch.
        data_sha256: digest of the annotations.
    """

    task: Task
    samples: Sequence[Sample]
    wanted: int
    batch_size: int
    data_sha256: str

    @property
    def wanted_samples(self) -> Sequence[Sample]:
        """The samples that are to be answered."""
        return self.samples[: self.wanted]

    @property
    def images(self) -> int:
        """How many images, or other units, they are about."""
        return len({sample.unit_key for sample in self.wanted_samples})

    def batches(self) -> Iterator[Sequence[Sample]]:
        """Consecutive slices of *all* samples, as far as they hold a wanted one.

        They are a function of the data set and the batch size alone. So a batch that reaches beyond the limit is
        computed as a whole, and its answers are to the last digit those of a run without a limit.
        """
        for start in range(0, self.wanted, self.batch_size):
            yield self.samples[start : start + self.batch_size]


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """One method on one task: what one folder of records holds.

    Attributes:
        work: the task's samples.
        row: what tables call it: the method, or `GREEDY_ROW`, or adapter and method.
        method: name of the method, as the command wrote it, or "none".
        config: effective configuration of the method, `{}` for the baseline, `{part: {...}, ...}` of a combination.
        config_given: what of it came from the command, the checkpoint's settings or its tokenizer; of the same form.
        generation: arguments of `generate`.
        folder: where the records are.
        adapter: what is put on the model before the method; None for nothing.
        overlap: how many of the wanted images the adapter was trained on; None where it does not say.
    """

    work: TaskWork
    row: str
    method: str
    config: dict[str, Any]
    config_given: dict[str, Any]
    generation: dict[str, Any]
    folder: RunFolder
    adapter: AdapterSource | None = None
    overlap: int | None = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """All that a command will run.

    Attributes:
        config: the command.
        source: the model, not loaded yet.
        family: name of the model's family, None if none of `scr.list_families()` answers for it.
        device: where it will be.
        dtype: in which number format.
        cells: task after task; in each the baseline first.
    """

    config: RunConfig
    source: ModelSource
    family: str | None
    device: torch.device
    dtype: str
    cells: tuple[Cell, ...]


def build_plan(config: RunConfig) -> Plan:
    """Find the model and the data, check every name and value, and lay out the work; no weights are loaded.

    Raises:
        ConfigError: for an unknown method, field or value.
        UnknownTaskError: for an unknown task.
        UnknownPromptError: for an unknown prompt variant.
        ModelLoadError: if there is no such model.
        UnsupportedModelError: if a method cannot work on this model.
        AdapterLoadError: if there is no such adapter.
    """
    get_prompt(config.prompt)
    if config.output_dir.exists() and not config.output_dir.is_dir():
        raise ConfigError(
            f"records cannot go there: got {config.output_dir}, a file; expected a folder, there or not. "
            "Give another --output-dir."
        )
    methods = [BASELINE, *dict.fromkeys(name for name in config.methods if name != BASELINE)]
    check_methods(methods, config.method_args, config.generation)
    tasks = [load_task(name) for name in expand_tasks(config.tasks)]
    device = resolve_device(config.device)
    source = find_model(config.model, config.revision)
    dtype = resolve_dtype(config.dtype, device, source)
    bare = skeleton(source)
    family = scr.family_of(bare.config)
    given = given_configs(methods, source, config.method_args)
    effective = effective_configs(bare, given)
    adapter = None if config.adapter is None else resolve_adapter(config.adapter, source)
    given_generation = check_generation(config.generation)
    opened: dict[Any, TaskData] = {}
    cells = []
    for task in tasks:
        opener = getattr(task.open_data, "__func__", task.open_data)
        if opener not in opened:
            opened[opener] = open_data(config, source, task)
        work = _work_on(task, opened[opener], config)
        generation = {"do_sample": False, "max_new_tokens": task.max_new_tokens, **given_generation}
        asked = [one.image for one in work.wanted_samples if one.image]
        for part, fields in effective.items():
            learnt_on = scr.get_method(part).configure(fields).learnt_on()
            check_learnt(part, learnt_on, asked, config.allow_overlap)
        rows: list[tuple[str, str, dict[str, Any], AdapterSource | None]]
        rows = [(name, name, generation, None) for name in (methods if adapter is None else methods[:1])]
        overlap: int | None = 0
        if adapter is not None:
            overlap = check_overlap(adapter, asked, config.allow_overlap)
            for name in methods:
                row = adapter.name if name == BASELINE else f"{adapter.name}, {name}"
                rows.append((row, name, generation, adapter))
        if generation["do_sample"]:
            # A method that looks good under sampling may only have found the way back to greedy decoding.
            greedy = {name: value for name, value in generation.items() if name not in SAMPLING}
            rows.insert(1, (GREEDY_ROW, BASELINE, {**greedy, "do_sample": False}, None))
        for row, name, decoding, adapted in rows:
            identity = {
                "method": name,
                "config": recorded_config(name, effective),
                "prompt": config.prompt,
                "adapter": None if adapted is None else adapted.recorded,
                "revision": source.revision,
                "dtype": dtype,
                "data_sha256": work.data_sha256,
                "task": task.name,
                "task_version": task.version,
                "task_options": dict(getattr(task, "options", {})),
                "generation": decoding,
                "seed": config.seed,
                **({"sampling": sampling.VERSION} if decoding["do_sample"] else {}),
            }
            folder = RunFolder(config.output_dir, task.name, source.name, name, config_hash(identity))
            cells.append(
                Cell(
                    work=work,
                    row=row,
                    method=name,
                    config=recorded_config(name, effective),
                    config_given=recorded_config(name, given),
                    generation=decoding,
                    folder=folder,
                    adapter=adapted,
                    overlap=0 if adapted is None else overlap,
                )
            )
    return Plan(
        config=config,
        source=source,
        family=None if family is None else family.name,
        device=device,
        dtype=dtype,
        cells=tuple(cells),
    )


def open_data(config: RunConfig, source: ModelSource, task: Task) -> TaskData:
    """The data set of a task: what `data_dir` holds, or the lab's own for a lab model and COCO's layout.

    Raises:
        ConfigError: if neither is given, or the task's files are not there.
    """
    if config.data_dir is not None:
        return task.open_data(config.data_dir, config.split)
    if task.files is not None:
        raise ConfigError(
            f"no data: got task {task.name!r} without a data folder; expected one with {task.files}. "
            "Give --data-dir FOLDER."
        )
    if not source.is_lab:
        raise ConfigError(
            f"no data: got model {config.model!r} without a data folder; expected one, as only lab models bring data. "
            "Give --data-dir FOLDER with annotations/instances_<split>.json and the images in <split>/ or images/."
        )
    split = config.split or LAB_SPLIT
    if split not in (known := splits_of(source.name)):
        raise ConfigError(f"unknown split of the lab: got {split!r}; expected one of {', '.join(known)}. Choose one.")
    return CocoData.open(data_folder(split, LAB_IMAGES, source.name), split)


def _work_on(task: Task, data: TaskData, config: RunConfig) -> TaskWork:
    samples = task.samples(data, config.seed)
    units = list(dict.fromkeys(sample.unit_key for sample in samples))
    if not units:
        raise ConfigError(
            f"no samples: got none of task {task.name!r} from split {data.split!r}; expected images with annotations. "
            "Give another --data-dir or --split."
        )
    wanted = set(units[: config.limit])
    count = sum(sample.unit_key in wanted for sample in samples)
    return TaskWork(task=task, samples=samples, wanted=count, batch_size=config.batch_size, data_sha256=data.sha256)
