"""Where runs lie on disk: `<root>/<task>/<model>/<method>-<digest>/{run.json, samples.jsonl}`.

`samples.jsonl` is the truth and only grows, but for grades that are made again; `run.json` is replaced as a whole.
Several processes that share a run append each to a file of its own, `samples.rank0001.jsonl`, until the first merges
them into `samples.jsonl`; what a kill leaves of them is read, and merged by the next run. No third-party library but
that of the locks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from scr import DataFileError
from scr.files import decode, json_text, parse_json, read_json, write_json
from scr.storing.lines import add_bytes, mend_end, read_lines, sync_folder
from scr.storing.locks import FolderInUseError as FolderInUseError
from scr.storing.locks import forget_lock, held, lock_of_part

from .hashing import config_hash as config_hash  # a folder is named by it
from .records import RecordError, RunRecord, SampleRecord

RUN_FILE = "run.json"
SAMPLES_FILE = "samples.jsonl"
_PARTS = "samples.rank*.jsonl"
_LOCK_FILE = ".lock"


class _Place(NamedTuple):
    """A sample in one of the folder's files; its line begins and ends at these bytes."""

    path: Path
    start: int
    end: int
    record: SampleRecord


class RunFolder:
    """The folder of one run.

    Attributes:
        path: the folder; it need not exist before something is written.

    Args:
        root: the output directory.
        task: name of the task.
        model: name of the model; "/" is written as "--".
        method: name of the method.
        digest: the run's `config_hash`.

    Raises:
        RecordError: for a name that would lead out of the layout.
    """

    def __init__(self, root: Path, task: str, model: str, method: str, digest: str) -> None:
        folder = model.replace("/", "--")
        for what, name in (("task", task), ("model", folder), ("method", method), ("digest", digest)):
            if name in ("", ".", "..") or "/" in name or os.sep in name or "\0" in name:
                raise RecordError(f"{what} cannot name a folder: got {name!r}; expected a plain name. Rename it.")
        self.task, self.model, self.method, self.digest = task, model, method, digest
        self.path = Path(root) / task / folder / f"{method}-{digest}"
        self._ids: set[str] | None = None
        self._rank: int | None = None

    def __repr__(self) -> str:
        """The folder's path."""
        return f"RunFolder({str(self.path)!r})"

    def read_run(self) -> RunRecord | None:
        """The run's record; None before one was written.

        Raises:
            RecordError: where it cannot be read.
        """
        path = self.path / RUN_FILE
        if not os.path.lexists(path):
            return None
        try:
            return RunRecord.from_dict(read_json(path))
        except DataFileError as error:
            raise RecordError(
                f"a run's record cannot be read: {error} Or delete it and run again: what its samples hold is not "
                "asked again."
            ) from error
        except RecordError as error:
            raise RecordError(f"{path}: {error}") from error

    def write_run(self, run: RunRecord) -> None:
        """Replace the run's record; whoever reads meanwhile, or after a crash, finds the old one or the new one."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / RUN_FILE, run.to_dict())
        sync_folder(self.path)

    def samples(self) -> list[SampleRecord]:
        """All samples, in the order in which they were written; those of parts, which no run has merged yet, come last.

        A last line that a kill cut off is no sample.

        Raises:
            RecordError: for any other line that cannot be read, and for a second sample of the same id.
        """
        return [place.record for place in self._places()]

    def each(self) -> Iterator[SampleRecord]:
        """As `samples`, one after the other: they are not held."""
        return (place.record for place in self._places())

    def ids(self) -> set[str]:
        """Names of all samples; the samples themselves are not held.

        Raises:
            RecordError: as `samples`.
        """
        return {record.id for record in self.each()}

    def merge(self, order: Iterable[str], without: Collection[str] = ()) -> None:
        """Bring all samples into one file, in this order; nothing is written where that is so already.

        A kill at any point leaves every sample in at least one file, and the next call goes on from there.

        Args:
            order: names of samples; those that it does not name come last.
            without: names of samples that are forgotten, so that they can be recorded again.

        Raises:
            RecordError: as `samples`.
            FolderInUseError: where another process still writes one of the parts.
        """
        with self._free_parts() as parts:
            places = {place.record.id: (place.path, place.start, place.end) for place in self._places()}
            position = {name: number for number, name in enumerate(order)}
            kept = (name for name in places if name not in without)
            wanted = sorted(kept, key=lambda name: position.get(name, len(position)))
            if parts or wanted != list(places):
                self._rewrite(_copied([places[name] for name in wanted]), parts)
        self._ids = None

    def append(self, records: Sequence[SampleRecord]) -> None:
        """Add samples at the end and wait until the disk has them.

        Raises:
            RecordError: for a sample that is there already; then nothing is written.
        """
        path = self._own_file
        if self._ids is None:
            self._ids = self.ids()
            mend_end(path, _sample)
        new: set[str] = set()
        for record in records:
            if record.id in self._ids or record.id in new:
                raise RecordError(
                    f"{self.path / SAMPLES_FILE} has this sample already: got id {record.id!r}; "
                    "expected new ones. Skip what is recorded, or clear the folder."
                )
            new.add(record.id)
        lines = _lines(records)
        # Unknown until the write has succeeded: after a full disk the next call must look at the file again.
        ids, self._ids = self._ids, None
        add_bytes(path, lines)
        ids.update(new)
        self._ids = ids

    def replace_samples(self, records: Sequence[SampleRecord]) -> None:
        """Put these records, graded again, in place of the same samples; a reader or a crash finds the old or the new.

        Raises:
            RecordError: for records of other samples than those that are there.
            FolderInUseError: where another process still writes one of the parts.
        """
        with self._free_parts() as parts:
            if {record.id for record in records} != self.ids():
                raise RecordError(
                    f"other samples than those in {self.path}: got {len(records)}; expected the same ids. Grade all."
                )
            self._rewrite([_lines(records)], parts)
        self._ids = None

    def clear(self) -> None:
        """Forget the run: delete its record and its samples.

        Raises:
            FolderInUseError: where another process still writes a part of them.
        """
        with self._free_parts() as parts:
            names = (RUN_FILE, f"{RUN_FILE}.partial", SAMPLES_FILE, f"{SAMPLES_FILE}.partial")
            for path in (*(self.path / name for name in names), *parts):
                path.unlink(missing_ok=True)
        self._ids = None

    def remove(self) -> bool:
        """Delete the run, its folder, and the folders of its model and task where they are empty then.

        Returns:
            Whether the folder is gone; it stays where it holds what is no run's.

        Raises:
            FolderInUseError: where another process holds it; then nothing is deleted.
        """
        with self.lock():
            self.clear()
            forget_lock(self.path / _LOCK_FILE)
        with contextlib.suppress(OSError):  # not empty
            for folder in (self.path, *self.path.parents[:2]):
                folder.rmdir()
        return not self.path.exists()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for writing; it is free again when the process ends, however it ends.

        Raises:
            FolderInUseError: where another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with held(self.path / _LOCK_FILE):
            # What another process appended before we held the lock is not in our memory.
            self._ids = None
            yield

    @contextlib.contextmanager
    def part(self, rank: int) -> Iterator[None]:
        """Meanwhile `append` writes to a file of this process's own, which no other may merge or delete before the end.

        Args:
            rank: the process's number among those that share the run. The first holds the `lock` for all of them.

        Raises:
            FolderInUseError: where another process holds that file.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / _PARTS.replace("*", f"{rank:04d}")
        with held(lock_of_part(path)):
            path.touch()
            self._ids, self._rank = None, rank
            try:
                yield
            finally:
                self._ids, self._rank = None, None

    @property
    def _own_file(self) -> Path:
        return self.path / (SAMPLES_FILE if self._rank is None else _PARTS.replace("*", f"{self._rank:04d}"))

    def _places(self) -> Iterator[_Place]:
        seen: set[str] = set()
        for path in (self.path / SAMPLES_FILE, *sorted(self.path.glob(_PARTS))):
            own: set[str] = set()
            for number, place in enumerate(_read(path), start=1):
                name = place.record.id
                if name in own:
                    raise RecordError(
                        f"line {number} of {path} repeats a sample: got id {name!r} again; expected one record each. "
                        "Delete the line, or run again with --overwrite."
                    )
                own.add(name)
                # A merge that was cut short leaves parts beside the file that has their samples already.
                if name not in seen:
                    yield place
            seen |= own

    def _rewrite(self, lines: Iterable[bytes], parts: Iterable[Path]) -> None:
        """Replace the samples by these lines, and forget the parts, whose samples are among them."""
        partial = self.path / f"{SAMPLES_FILE}.partial"
        with partial.open("wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.path / SAMPLES_FILE)
        sync_folder(self.path)
        for path in parts:
            path.unlink()

    @contextlib.contextmanager
    def _free_parts(self) -> Iterator[list[Path]]:
        """The parts that lie there, none of which another process writes."""
        with contextlib.ExitStack() as stack:
            paths = sorted(self.path.glob(_PARTS))
            for path in paths:
                stack.enter_context(held(lock_of_part(path)))
            yield paths
            for path in paths:
                forget_lock(lock_of_part(path))


def _copied(places: Sequence[tuple[Path, int, int]]) -> Iterator[bytes]:
    """The lines at these places, as they are."""
    with contextlib.ExitStack() as stack:
        files = {path: stack.enter_context(path.open("rb")) for path in {place[0] for place in places}}
        for path, start, end in places:
            files[path].seek(start)
            yield files[path].read(end - start) + b"\n"


def _lines(records: Sequence[SampleRecord]) -> bytes:
    return "".join(f"{json_text(record.to_dict())}\n" for record in records).encode("utf-8", "backslashreplace")


def _read(path: Path) -> Iterator[_Place]:
    """The samples of a file, line by line; a last line that a kill cut off is none."""
    try:
        for line in read_lines(path, _sample, wanted="one sample", advice="Run again with --overwrite."):
            yield _Place(path, line.start, line.end, line.value)
    except DataFileError as error:
        raise RecordError(str(error)) from error


def _sample(line: bytes) -> SampleRecord:
    return SampleRecord.from_dict(parse_json(decode(line, "the line"), "the line"))


def find_runs(root: Path) -> list[RunFolder]:
    """All runs below an output directory, sorted by path; none where it does not exist.

    A model's name is read back from its folder, "--" as "/".
    """
    runs = []
    for path in sorted(Path(root).glob("*/*/*-*")):
        if (path / RUN_FILE).is_file() or (path / SAMPLES_FILE).is_file():
            method, _, digest = path.name.rpartition("-")
            if method and digest:
                runs.append(RunFolder(Path(root), path.parts[-3], path.parts[-2].replace("--", "/"), method, digest))
    return runs
