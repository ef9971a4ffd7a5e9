"""Who writes to a folder: locks that the system frees with the process, however it ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout


class FolderInUseError(RuntimeError):
    """Another process writes to the folder."""


@contextlib.contextmanager
def held(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock; a file that a kill left there is no lock.

    Args:
        path: the file of the lock, in the folder that it is about.
        wait: whether to wait until it is free; otherwise it is held at once or not at all.

    Raises:
        FolderInUseError: where another process holds it.
        OSError: on a file system that has no locks.
    """
    # A file in place of the system's lock would stay after a kill.
    lock = FileLock(path, blocking=wait, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise FolderInUseError(
            f"another process writes to this folder: got {path.parent}; expected a free one. "
            "Wait for it to end, or give another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def held_and_forgotten(path: Path) -> Iterator[None]:
    """Hold a lock whose file goes with it.

    Raises:
        FolderInUseError: where another process holds it.
        OSError: on a file system that has no locks.
    """
    with held(path):
        try:
            yield
        finally:
            forget_lock(path)


def alone_in(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Be the only process that makes something in a folder; else as `held_and_forgotten`."""
    return held_and_forgotten(folder / ".lock")


def lock_of_part(part: Path) -> Path:
    """The file of the lock of a rank's samples: not these themselves, which Windows would let nobody read meanwhile."""
    return part.with_name(f".{part.name}.lock")


def forget_lock(path: Path) -> None:
    """Delete the file of a lock while it is held, so that nobody who waits for it can take what is gone."""
    with contextlib.suppress(PermissionError):  # Windows deletes no open file; the library does so after the release
        path.unlink(missing_ok=True)
