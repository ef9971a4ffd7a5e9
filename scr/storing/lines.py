"""Files of JSON lines that only grow: what a kill leaves of them is read, and mended before more is written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from ..errors import DataFileError

T = TypeVar("T")


class Line(NamedTuple, Generic[T]):
    """A line of a file.

    Attributes:
        number: from 1.
        start: its first byte.
        end: the byte after its last one, its line break left out.
        value: what it was read as.
    """

    number: int
    start: int
    end: int
    value: T


def read_lines(
    path: Path, read: Callable[[bytes], T], *, wanted: str, advice: str, after: Line[T] | None = None
) -> Iterator[Line[T]]:
    """The lines of a file, one by one; blank lines are none, nor is a last one that a kill cut off.

    Args:
        path: the file; it need not exist.
        read: reads a line, and raises ValueError for one that is none.
        wanted: what the error says was expected.
        advice: what it says can be done.
        after: begin behind this line; None begins at the first.

    Raises:
        DataFileError: for a line that cannot be read.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        start, first = (0, 1) if after is None else (after.end + 1, after.number + 1)
        file.seek(start)
        for number, line in enumerate(file, start=first):
            if line.strip():
                try:
                    value = read(line)
                except ValueError as error:
                    if not line.endswith(b"\n"):
                        return
                    raise DataFileError(
                        f"line {number} of {path} cannot be read: got {line[:80]!r} ({error}); expected {wanted}. "
                        f"{advice}"
                    ) from error
                yield Line(number, start, start + len(line.rstrip(b"\n")), value)
            start += len(line)


def mend_end(path: Path, read: Callable[[bytes], object]) -> None:
    """Cut off a torn last line; end a whole one that lacks only its line break.

    Args:
        path: the file; it need not exist.
        read: as `read_lines` takes it.

    Raises:
        OSError: where it cannot be written.
    """
    if not path.exists():
        return
    with path.open("r+b") as file:
        if not file.seek(0, os.SEEK_END) or (file.seek(-1, os.SEEK_END), file.read(1))[1] == b"\n":
            return
        file.seek(0)
        last, start = b"", 0
        for line in file:
            last, start = line, start + len(last)
        try:
            read(last)
        except ValueError:
            file.truncate(start)
        else:
            file.seek(0, os.SEEK_END)
            file.write(b"\n")
        file.flush()
        os.fsync(file.fileno())


def add_bytes(path: Path, content: bytes) -> None:
    """Write at the end of a file, and wait until the disk has it and, of a new one, its name.

    Raises:
        OSError: where it cannot be written; a part may be there then.
    """
    created = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if created:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder: a file that is safe helps little if its name is not."""
    with contextlib.suppress(OSError):  # not every file system lets a folder be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
