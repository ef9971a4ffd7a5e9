"""What a protocol declares, a file each in `declared/`: model, data, every row, and published numbers. No torch."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypedDict

from scr import BASELINE, ConfigError
from scr.errors import suggestion
from scr.fields import Count, Fields, Index, Share
from scr.files import json_text, read_json

from ..tasks import expand_tasks

FOLDER = Path(__file__).parent / "declared"
REHEARSAL_IMAGES, REHEARSAL_TOKENS = 2, 4


class Published(TypedDict):
    """A number that others published.

    Attributes:
        value: in the unit that records have, rates as fractions.
        source: who.
        protocol: how, as far as they say.
    """

    value: float
    source: str
    protocol: str


@dataclass(frozen=True, kw_only=True)
class Part(Fields):
    """A command of `benchmarks.run`, whose rows are fixed; the fields are those of `RunConfig`.

    Attributes:
        name: what `--part` calls it.
        tasks: names of tasks or groups.
        methods: what is run beside the baseline, each as its defaults have it.
        limit: number of images.
        prompt: the prompt variant.
        adapter: what is put on the model, beside the bare one.
        generation: arguments of `generate`.
    """

    name: str
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    limit: Count
    prompt: str = "default"
    adapter: str | None = None
    generation: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Anchor(Fields):
    """What others measured of the unmodified model, and how far from it the baseline may be.

    Attributes:
        part: whose baseline is meant.
        tasks: a task, or a group over whose tasks the mean is taken.
        metric: which metric.
        tolerance: how far outside of what was published it may be, in the metric's unit.
        published: the numbers.
    """

    part: str
    tasks: str
    metric: str
    tolerance: Share
    published: tuple[Published, ...]


@dataclass(frozen=True, kw_only=True)
class Protocol(Fields):
    """One declared protocol.

    Attributes:
        name: name of its file.
        version: raised with any change.
        summary: a line for the list.
        model: hub id of the model.
        model_type: of its configuration; no other class is run under the protocol's name.
        shape: fields of its text configuration by which a copy is known from a stand-in.
        data: what has to lie in the data folder, in words.
        split: the split of it.
        files: path in the data folder → sha256, of files that must be there as they are.
        seed: of questions and of sampling.
        parts: the commands.
        anchors: what the baseline is compared with.
        without_anchors: why there are none.
        causes: task or group → usual causes of a baseline that is off.
        rehearsal: whether it was cut short to try the mechanics.
    """

    name: str
    version: Count
    summary: str
    model: str
    model_type: str
    shape: dict[str, int]
    data: str
    split: str
    files: dict[str, str]
    seed: Index
    parts: tuple[Part, ...]
    anchors: tuple[Anchor, ...]
    without_anchors: str
    causes: dict[str, tuple[str, ...]]
    rehearsal: bool = False

    if_missing: ClassVar[str] = "Declare them before anything is run."

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that does not fit, or parts with several adapters."""
        super().__post_init__()
        adapters = {one.adapter for one in self.parts if one.adapter is not None}
        if len(adapters) > 1:
            raise ConfigError(
                f"parts of {self.name} with several adapters: got {', '.join(sorted(adapters))}; expected one at most. "
                "Declare a protocol for each."
            )

    @property
    def adapter(self) -> str | None:
        """Name of the adapter that its parts put on the model; None where none does."""
        return next((one.adapter for one in self.parts if one.adapter is not None), None)

    @property
    def sha256(self) -> str:
        """Digest of all that it declares: equal digest, equal protocol."""
        return hashlib.sha256(json_text(dataclasses.asdict(self)).encode()).hexdigest()

    def part(self, name: str) -> Part:
        """The part called `name`.

        Raises:
            ConfigError: for an unknown name, with the nearest known one.
        """
        names = [one.name for one in self.parts]
        if name not in names:
            raise ConfigError(
                f"unknown part of {self.name}: got {name!r}; expected one of {', '.join(names)}. "
                f"{suggestion(name, names)}"
            )
        return self.parts[names.index(name)]

    def causes_of(self, tasks: str) -> tuple[str, ...]:
        """Usual causes of a baseline that is off, on a task or a group."""
        asked = expand_tasks((tasks,))[0]
        return next((found for name, found in self.causes.items() if asked in expand_tasks((name,))), ())

    def rehearsed(self) -> Protocol:
        """The same rows on two images each, cut after a few tokens: it tries the mechanics and measures nothing."""
        parts = tuple(
            dataclasses.replace(
                one, limit=REHEARSAL_IMAGES, generation={**one.generation, "max_new_tokens": REHEARSAL_TOKENS}
            )
            for one in self.parts
        )
        return dataclasses.replace(self, parts=parts, files={}, anchors=(), rehearsal=True)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One folder of records that a part leaves.

    Attributes:
        part: name of the part.
        task: name of the task.
        method: as records have it.
        adapted: whether the part's adapter is on the model.
        prompt: the prompt variant.
        generation: arguments of `generate`.
        limit: number of images.
    """

    part: str
    task: str
    method: str
    adapted: bool
    prompt: str
    generation: Mapping[str, Any]
    limit: int

    @property
    def is_baseline(self) -> bool:
        """Whether it is the model as it is."""
        return self.method == BASELINE and not self.adapted


def list_protocols() -> list[str]:
    """Names of the declared protocols."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def get_protocol(name: str) -> Protocol:
    """The protocol called `name`.

    Raises:
        ConfigError: for an unknown name, with the nearest known one.
    """
    known = list_protocols()
    if name not in known:
        raise ConfigError(
            f"unknown protocol: got {name!r}; expected one of {', '.join(known)}. {suggestion(name, known)}"
        )
    return Protocol.from_dict({"name": name, **read_json(FOLDER / f"{name}.json")})


def rows_of(part: Part) -> list[Row]:
    """The rows of a part, task after task, the baseline first.

    They are those of `benchmarks.running.plan.build_plan`, but for the greedy baseline that a sampled part has beside
    its own: that is no row of its own here.
    """
    generation = {"do_sample": False, **part.generation}
    methods = [BASELINE, *(one for one in part.methods if one != BASELINE)]
    rows = [(one, False) for one in (methods if part.adapter is None else methods[:1])]
    rows += [(one, True) for one in methods] if part.adapter is not None else []
    return [
        Row(
            part=part.name,
            task=task,
            method=method,
            adapted=adapted,
            prompt=part.prompt,
            generation=generation,
            limit=part.limit,
        )
        for task in expand_tasks(part.tasks)
        for method, adapted in rows
    ]
