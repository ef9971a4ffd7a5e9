"""Runs as they lie in folders of results: what each is, which of two folders belong together, and removing them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from scr import ConfigError, SCRError

from ..records import RecordError, RunRecord, SampleRecord, first_images
from ..stats import Comparison
from ..store import FolderInUseError, RunFolder, find_runs
from ..tasks import UnknownTaskError, load_task
from ..tasks.base import Scores, Task


class StoredRun(NamedTuple):
    """A run's folder and what it holds; `problem` is why that cannot be told, else None."""

    folder: RunFolder
    record: RunRecord | None
    samples: Sequence[SampleRecord]
    problem: str | None

    @property
    def row(self) -> str:
        """The method, with the adapter and the prompt variant where there are any."""
        if self.record is None:
            return self.folder.method
        extras = [self.record.adapter] if self.record.adapter else []
        extras += [f"prompt {self.record.prompt}"] if self.record.prompt != "default" else []
        return ", ".join([self.record.method, *extras])

    @property
    def status(self) -> str:
        """As recorded; "unreadable" where it cannot be read, "no record" where a kill came before one was written."""
        return "unreadable" if self.problem else self.record.status if self.record else "no record"


class Paired(NamedTuple):
    """Two runs of one task, model and method, and how they differ; a problem is why they were not compared."""

    first: StoredRun
    second: StoredRun
    scores: tuple[Scores, Scores] | None
    comparison: Comparison | None
    problem: str | None


def look(folder: RunFolder) -> StoredRun:
    """Read a run, whatever is wrong with it."""
    try:
        return StoredRun(folder, folder.read_run(), folder.samples(), None)
    except (RecordError, OSError) as error:
        return StoredRun(folder, None, (), str(error))


def paired_runs(
    first: Sequence[StoredRun], second: Sequence[StoredRun]
) -> tuple[list[tuple[StoredRun, StoredRun]], list[str]]:
    """Runs of one task, model and row: those of equal configuration, else those that are alone on either side.

    Returns:
        The pairs, and sentences about runs without a partner.
    """
    pairs: list[tuple[StoredRun, StoredRun]] = []
    problems: list[str] = []
    for key in dict.fromkeys(map(_key, (*first, *second))):
        sides = [[one for one in found if _key(one) == key] for found in (first, second)]
        by_digest = [{one.folder.digest: one for one in side} for side in sides]
        same = [digest for digest in by_digest[0] if digest in by_digest[1]]
        pairs += [(by_digest[0][digest], by_digest[1][digest]) for digest in same]
        rest = [[one for one in side if one.folder.digest not in same] for side in sides]
        if len(rest[0]) == len(rest[1]) == 1:
            pairs.append((rest[0][0], rest[1][0]))
        elif any(rest):
            problems.append(f"{', '.join(key)}: got {len(rest[0])} runs in A and {len(rest[1])} in B without a partner")
    return pairs, problems


def compare_pair(first: StoredRun, second: StoredRun) -> Paired:
    """The paired differences of two runs, second minus first, on the samples that both have."""
    if first.record is None or second.record is None:
        return Paired(first, second, None, None, first.problem or second.problem or "no run.json")
    try:
        task = load_task(first.record.task)
        records = [first_images(one.samples, one.record.limit) for one in (first, second) if one.record]
        _check_questions(*records)
        comparison = task.compare(*records)
        return Paired(first, second, _shared_scores(task, *records), comparison, None)
    except (RecordError, UnknownTaskError, SCRError, ValueError) as error:
        return Paired(first, second, None, None, str(error))


class Removal(NamedTuple):
    """What removing runs left behind: why runs are still there, and folders that hold files of others."""

    kept: list[str]
    not_empty: list[Path]


def remove(runs: Sequence[StoredRun]) -> Removal:
    """Remove runs, each under its lock."""
    left = Removal([], [])
    for one in runs:
        try:
            gone = one.folder.remove()
        except (FolderInUseError, OSError) as error:
            left.kept.append(str(error))
            continue
        if not gone:
            left.not_empty.append(one.folder.path)
    return left


def as_run(path: Path) -> RunFolder | None:
    """The run whose folder this is; None where it is none."""
    path = path.resolve()
    if len(path.parts) < 4:
        return None
    return next((one for one in find_runs(path.parents[2]) if one.path == path), None)


def runs_below(root: Path) -> list[StoredRun]:
    """Every run of a folder of results.

    Raises:
        ConfigError: if there is no such folder.
    """
    if not root.is_dir():
        raise ConfigError(
            f"no folder of results: got {root}; expected what --output-dir of benchmarks.run named. Check the path."
        )
    return [look(folder) for folder in find_runs(root)]


def _key(found: StoredRun) -> tuple[str, str, str]:
    return found.folder.task, found.folder.model, found.row


def _check_questions(first: Sequence[SampleRecord], second: Sequence[SampleRecord]) -> None:
    """Refuse equal names of other questions: what is asked under a name may depend on the seed and on the data."""
    others = {one.id: one for one in second}
    for one in first:
        other = others.get(one.id, one)
        if (one.prompt, one.target) != (other.prompt, other.target):
            raise RecordError(
                f"sample {one.id!r} is not the same question in both runs: got (prompt, target) "
                f"{(one.prompt, one.target)} and {(other.prompt, other.target)}; expected one. Compare runs of "
                "one data set and seed."
            )


def _shared_scores(task: Task, first: Sequence[SampleRecord], second: Sequence[SampleRecord]) -> tuple[Scores, Scores]:
    shared = {one.id for one in first} & {one.id for one in second}
    scores = [task.score([one for one in records if one.id in shared]) for records in (first, second)]
    return scores[0], scores[1]
