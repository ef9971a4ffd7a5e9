"""Where runs lie on disk: `<root>/<task>/<model>/<method>-<digest>/{run.json, samples.jsonl}`.

`samples.jsonl` is the truth and only grows; `run.json` is replaced as a whole. Only the standard library is needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .records import RecordError, RunRecord, SampleRecord

try:
    import fcntl
except ImportError:  # pragma: no cover  Windows: no advisory locks, so that two runs there are the user's to keep apart
    fcntl = None  # type: ignore[assignment]

RUN_FILE = "run.json"
SAMPLES_FILE = "samples.jsonl"
_LOCK_FILE = ".lock"
_DIGITS = 10


class FolderInUseError(RuntimeError):
    """Another process writes to the run's folder."""


def config_hash(identity: Mapping[str, Any]) -> str:
    """Ten hexadecimal digits that name a configuration: sha256 over canonical JSON.

    The order of keys, tuple or list, and 1 or 1.0 make no difference.

    Args:
        identity: all that can change an answer, as JSON values.

    Raises:
        RecordError: for a value that JSON does not know, NaN included.
    """
    try:
        text = json.dumps(_canonical(identity), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RecordError(
            f"the configuration cannot be named: got {identity!r} ({error}); expected JSON values. "
            "Give plain numbers, strings, lists and dictionaries."
        ) from error
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


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

    def __repr__(self) -> str:
        """The folder's path."""
        return f"RunFolder({str(self.path)!r})"

    def read_run(self) -> RunRecord | None:
        """The run's record; None before one was written.

        Raises:
            RecordError: where it cannot be read.
        """
        path = self.path / RUN_FILE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise RecordError(
                f"a run's record cannot be read: got {path} ({error}); expected JSON. "
                "Rebuild it with --rescore, or delete it and run again."
            ) from error
        return RunRecord.from_dict(data)

    def write_run(self, run: RunRecord) -> None:
        """Replace the run's record; whoever reads meanwhile, or after a crash, finds the old one or the new one."""
        self.path.mkdir(parents=True, exist_ok=True)
        partial = self.path / f"{RUN_FILE}.partial"
        # A lone surrogate, from an undecodable byte of the command line, becomes the JSON escape that stands for it.
        with partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
            json.dump(run.to_dict(), file, indent=2, ensure_ascii=False, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.path / RUN_FILE)
        self._sync_folder()

    def samples(self) -> list[SampleRecord]:
        """All samples, in the order in which they were written.

        A last line that a kill cut off is no sample.

        Raises:
            RecordError: for any other line that cannot be read, and for a second sample of the same id.
        """
        path = self.path / SAMPLES_FILE
        if not path.exists():
            return []
        records: dict[str, SampleRecord] = {}
        lines = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = SampleRecord.from_dict(json.loads(line))
            except ValueError as error:
                if number == len(lines):
                    break
                raise RecordError(
                    f"line {number} of {path} cannot be read: got {line[:80]!r} ({error}); expected one sample. "
                    "Run again with --overwrite."
                ) from error
            if record.id in records:
                raise RecordError(
                    f"line {number} of {path} repeats a sample: got id {record.id!r} again; expected one record each. "
                    "Delete the line, or run again with --overwrite."
                )
            records[record.id] = record
        return list(records.values())

    def append(self, records: Sequence[SampleRecord]) -> None:
        """Add samples at the end and wait until the disk has them.

        Raises:
            RecordError: for a sample that is there already; then nothing is written.
        """
        if self._ids is None:
            self._ids = {record.id for record in self.samples()}
            self._repair()
        seen = set(self._ids)
        for record in records:
            if record.id in seen:
                raise RecordError(
                    f"{self.path / SAMPLES_FILE} has this sample already: got id {record.id!r}; "
                    "expected new ones. Skip what is recorded, or clear the folder."
                )
            seen.add(record.id)
        lines = [json.dumps(record.to_dict(), ensure_ascii=False, allow_nan=False) + "\n" for record in records]
        created = not (self.path / SAMPLES_FILE).exists()
        self.path.mkdir(parents=True, exist_ok=True)
        # Unknown until the write has succeeded: after a full disk the next call must look at the file again.
        self._ids = None
        with (self.path / SAMPLES_FILE).open("ab") as file:
            file.write("".join(lines).encode("utf-8", "backslashreplace"))
            file.flush()
            os.fsync(file.fileno())
        if created:
            self._sync_folder()
        self._ids = seen

    def clear(self) -> None:
        """Forget the run: delete its record and its samples."""
        for name in (RUN_FILE, f"{RUN_FILE}.partial", SAMPLES_FILE):
            (self.path / name).unlink(missing_ok=True)
        self._ids = None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for writing; it is free again when the process ends, however it ends.

        Raises:
            FolderInUseError: where another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / _LOCK_FILE).open("a") as file:
            if fcntl is not None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise FolderInUseError(
                        f"another process writes to this folder: got {self.path}; expected a free one. "
                        "Wait for it to end, or give another --output-dir."
                    ) from error
            # What another process appended before we held the lock is not in our memory.
            self._ids = None
            yield

    def _repair(self) -> None:
        """Cut off a torn last line; end a whole one that lacks only its line break."""
        path = self.path / SAMPLES_FILE
        if not path.exists():
            return
        content = path.read_bytes()
        start = content.rfind(b"\n") + 1
        if start == len(content):
            return
        with path.open("r+b") as file:
            try:
                SampleRecord.from_dict(json.loads(content[start:]))
            except ValueError:
                file.truncate(start)
            else:
                file.seek(0, os.SEEK_END)
                file.write(b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _sync_folder(self) -> None:
        # A file that is safe on disk helps little if its name is not.
        with contextlib.suppress(OSError):  # not every file system lets a folder be opened
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def find_runs(root: Path) -> list[RunFolder]:
    """All runs below an output directory, sorted by path; none where it does not exist.

    A model's name is read back from its folder, "--" as "/".
    """
    runs = []
    for path in sorted(Path(root).glob("*/*/*-*")):
        if (path / RUN_FILE).is_file() or (path / SAMPLES_FILE).is_file():
            method, _, digest = path.name.rpartition("-")
            runs.append(RunFolder(Path(root), path.parts[-3], path.parts[-2].replace("--", "/"), method, digest))
    return runs


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _canonical(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(entry) for entry in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
