"""What every benchmark answers: which questions, what an answer means, and what all answers together score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol

from ..records import Found, SampleRecord
from ..stats import Comparison, SampleTable, compare_tables, ratio_intervals, ratios


class TaskData(Protocol):
    """What every opened data set has."""

    @property
    def folder(self) -> Path:
        """Its folder."""

    @property
    def split(self) -> str:
        """Name of the split."""

    @property
    def sha256(self) -> str:
        """Digest of annotations and questions: equal digest, equal questions."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One question or caption to be asked for.

    Attributes:
        id: name, unique within the task; begins with the image's id and does not depend on `limit`.
        image: the image's file; None for a question about no image.
        prompt: the benchmark's own prompt.
        target: what is right, a JSON value.
        unit: what `limit` counts and intervals resample, the record's `image`, where that is not the image's file.
        facts: what the annotations know about its image and the object it asks about, JSON values. Diagnostics store
            them; nobody else looks at them.
    """

    id: str
    image: Path | None
    prompt: str
    target: Any
    unit: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def unit_key(self) -> str:
        """What samples of one unit share."""
        return self.unit or str(self.image)

    @property
    def unit_name(self) -> str:
        """What a record calls it."""
        return self.unit or (self.image.name if self.image is not None else "")


class Grade(NamedTuple):
    """What one output means: the fields of the same names in `SampleRecord`.

    Attributes:
        answer: the parsed answer; None is unparsed.
        outcome: "tp", "fp", "tn" or "fn".
        found: the objects that a caption names and misses.
    """

    answer: str | None
    outcome: str | None
    found: Found | None = None


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What all outputs of a run score; the fields of the same names in `RunRecord`.

    Attributes:
        metrics: name → value, None where undefined; fractions unless `units` says otherwise; unrounded.
        counts: name → integer.
        intervals: name → [low, high], 95 %; see `benchmarks.stats.ratio_intervals`.
        reasons: name → why a metric is None.
        units: name → unit, for metrics that are not fractions.
    """

    metrics: dict[str, float | None]
    counts: dict[str, int]
    intervals: dict[str, list[float]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)


class Task(ABC):
    """One benchmark.

    Attributes:
        name: as in the table and on the command line.
        version: raised when samples or scores change.
        paper: where it comes from.
        checked_against: what the implementation was compared with.
        rule: the official rule that reads answers.
        kind: "yes_no" or "caption".
        max_new_tokens: where an answer is cut off, unless the command says otherwise.
        options: choices of the protocol that decide which samples there are; part of a run's identity.
        ability: name of the metric that measures general ability; None where the task is about something else.
        files: what the data folder must hold and where to get it; None for COCO's layout, which the lab's data have.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    paper: ClassVar[str]
    checked_against: ClassVar[str]
    rule: ClassVar[str]
    kind: ClassVar[str]
    max_new_tokens: ClassVar[int]
    options: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    ability: ClassVar[str | None] = None
    files: ClassVar[str | None] = None

    @classmethod
    def open_data(cls, folder: Path, split: str | None) -> TaskData:
        """The data set in a folder; tasks that inherit this method from one class share what it gives.

        Raises:
            ConfigError: where a file is missing or broken, naming it.
        """
        from .coco import CocoData  # needs torch, and scoring does not

        return CocoData.open(folder, split)

    @abstractmethod
    def samples(self, data: Any, seed: int) -> list[Sample]:
        """Every sample of the benchmark on a data set, grouped by image.

        The order is fixed by the data and the seed, so that a run on the first images is a part of a longer run.

        Args:
            data: the data set, as `open_data` gives it.
            seed: seed of all draws.
        """

    @abstractmethod
    def grade(self, target: Any, output: str) -> Grade:
        """What one output means, by the official rule."""

    @abstractmethod
    def table(self, records: Sequence[SampleRecord]) -> SampleTable:
        """What each record contributes to the metrics, graded again from its output and target."""

    @abstractmethod
    def score(self, records: Sequence[SampleRecord]) -> Scores:
        """The scores of a run: a function of outputs, targets, images and margins alone, in any order."""

    def compare(self, baseline: Sequence[SampleRecord], method: Sequence[SampleRecord]) -> Comparison:
        """Two runs of this task, sample by sample; every metric's difference, with its interval over images.

        Raises:
            ValueError: where the two share no sample or disagree on what a sample is.
        """
        return compare_tables(self.table(baseline), self.table(method))


def score_ratios(table: SampleTable, undefined: Mapping[str, str]) -> Scores:
    """Metrics, intervals and reasons of the ratios in a table; counts and units are the task's to add.

    Args:
        table: what each sample contributes.
        undefined: metric → what it means that there is nothing below its line.
    """
    metrics = ratios(table)
    intervals = {name: list(interval) for name, interval in ratio_intervals(table).items() if metrics[name] is not None}
    reasons = {name: undefined[name] for name, value in metrics.items() if value is None}
    return Scores(metrics=metrics, counts={}, intervals=intervals, reasons=reasons)
