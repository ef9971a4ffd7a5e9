"""`descriptions.jsonl`: a line for each photo and method, to which any number of processes add, one line at a time.

A photo belongs to the process that holds its lock while it is described; the file is held only while lines are added.
The system frees both with the process, however it ends: what a kill leaves is whole, and the next process goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import ConfigError, DataFileError
from ...files import decode, json_text, json_value, parse_json, read_json, write_json, write_rows
from ...storing.lines import Line, add_bytes, mend_end, read_lines
from ...storing.locks import FolderInUseError, forget_lock, held, held_and_forgotten
from .photos import Photo

ROWS_FILE, SETTINGS_FILE = "descriptions.jsonl", "settings.json"
_LOCK, _PAGE_LOCK, _ALL_LOCK, _CLAIM = ".lock", ".page.lock", ".all.lock", ".claim-{}.lock"

Row = dict[str, Any]
"""The fields of a `Description`, `trace`, and the `digest` of the photo."""
Key = tuple[str, str]
"""The names of a photo and of a method."""


class Records:
    """The records in a folder.

    Attributes:
        folder: the folder; it need not exist before `begin`.
    """

    def __init__(self, folder: Path) -> None:
        """Nothing is read or written yet."""
        self.folder = folder
        self._last: Line[Row] | None = None
        self._keys: set[Key] = set()

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuse a folder that `begin` would refuse; nothing is written.

        Raises:
            ConfigError: for a folder whose lines were made with other settings, or that cannot be one.
            DataFileError: for settings that cannot be read.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(
                f"descriptions cannot go there: got {str(self.folder)!r}, a file; expected a folder. "
                "Give another --output."
            )
        self._together(settings)

    def check_photos(self, photos: Iterable[Photo]) -> None:
        """Refuse photos whose names are those of others that are described already.

        Raises:
            ConfigError: naming the first.
            DataFileError: as `rows`.
        """
        known = {row["image"]: row["digest"] for row in self._lines() if row.get("digest") is not None}
        for photo in photos:
            if photo.name in known and photo.digest() not in (None, known[photo.name]):
                raise ConfigError(
                    f"two photos have one name: got {str(photo.path)!r}, but {str(self.folder)!r} describes another "
                    f"as {photo.name!r}; expected each name once. Give another --output, or rename the photo."
                )

    def begin(self, settings: Mapping[str, Any]) -> Row:
        """Make the folder, or go on in it; what could not be described is forgotten, so that it is tried once more.

        Args:
            settings: what texts depend on, the same for all lines, and `methods`, name → configuration: later calls
                may add some.

        Returns:
            The settings as they stand there, with an `id` of the folder and all methods.

        Raises:
            ConfigError: as `check`.
            DataFileError: for settings or lines that cannot be read.
            OSError: where the folder cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._held():
            together = self._together(settings)
            write_json(self.folder / SETTINGS_FILE, together)
            rows = list(self._lines())
            if any(row["error"] is not None for row in rows):
                write_rows(self.folder / ROWS_FILE, (row for row in rows if row["error"] is None))
        return together

    def rows(self) -> dict[Key, Row]:
        """The lines, by photo and method.

        Raises:
            DataFileError: for a line that cannot be read.
        """
        return {(row["image"], row["method"]): row for row in self._lines()}

    def missing(self, photos: Iterable[str], methods: Sequence[str]) -> dict[str, list[str]]:
        """The photos that lack lines, and of which methods.

        Raises:
            DataFileError: as `rows`.
        """
        known = self._known()
        lacking = {name: [method for method in methods if (name, method) not in known] for name in photos}
        return {name: which for name, which in lacking.items() if which}

    def add(self, rows: Sequence[Row]) -> None:
        """Add lines, and wait until the disk has them; one that is there already is left as it is.

        Raises:
            OSError: where they cannot be written; a part of them may be there, and is mended by the next call.
        """
        with self._held():
            mend_end(self.folder / ROWS_FILE, _read)
            known = self._known()
            lines = [f"{json_text(row)}\n" for row in rows if (row["image"], row["method"]) not in known]
            add_bytes(self.folder / ROWS_FILE, "".join(lines).encode("utf-8", "backslashreplace"))

    def sort(self, photos: Collection[str], methods: Collection[str]) -> list[Row]:
        """Bring the lines into the order of the photos and methods, what is not among them last, and return them."""
        with self._held():
            place = {name: number for number, name in enumerate(photos)}
            order = {name: number for number, name in enumerate(methods)}
            rows = self.rows()
            wanted = sorted(rows, key=lambda key: (place.get(key[0], len(place)), order.get(key[1], len(order))))
            if wanted != list(rows):
                write_rows(self.folder / ROWS_FILE, [rows[key] for key in wanted])
        return [rows[key] for key in wanted]

    @contextlib.contextmanager
    def claimed(self, photos: Iterable[str], most: int) -> Iterator[list[str]]:
        """Hold photos, so that no other process describes them inside the `with`: the first `most` that nobody holds.

        Raises:
            OSError: on a file system without locks.
        """
        with contextlib.ExitStack() as stack:
            mine: list[str] = []
            with self._held(), contextlib.suppress(FolderInUseError), held(self.folder / _ALL_LOCK):
                for name in photos:
                    if len(mine) == most:
                        break
                    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]
                    path = self.folder / _CLAIM.format(digest)
                    with contextlib.suppress(FolderInUseError):
                        stack.enter_context(held_and_forgotten(path))
                        mine.append(name)
            yield mine

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold all photos, so that no other process describes any inside the `with`; who holds some is waited for.

        Raises:
            FolderInUseError: where another process holds all of them.
            OSError: where the folder cannot be made, or on a file system without locks.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            # Whoever claims photos holds this lock, too, but only inside the other one.
            with self._held():
                stack.enter_context(held(self.folder / _ALL_LOCK))
            for path in self.folder.glob(_CLAIM.format("*")):
                with held(path, wait=True):
                    forget_lock(path)
            yield

    def publishing(self) -> contextlib.AbstractContextManager[None]:
        """Inside it no other process writes what is made of the lines: a table, a page and its pictures."""
        return held(self.folder / _PAGE_LOCK, wait=True)

    def _known(self) -> set[Key]:
        """The keys of all lines; a file that has only grown is not read from its beginning again."""
        last, path = self._last, self.folder / ROWS_FILE
        if last is not None and not _has(path, last):
            self._last, self._keys = None, set()
        for line in self._read_lines(self._last):
            self._last = line
            self._keys.add((line.value["image"], line.value["method"]))
        return self._keys

    def _together(self, settings: Mapping[str, Any]) -> Row:
        path, given = self.folder / SETTINGS_FILE, json_value(settings)
        return _together(read_json(path) if path.exists() else {"id": uuid.uuid4().hex, **given}, given, path)

    def _lines(self) -> Iterator[Row]:
        return (line.value for line in self._read_lines())

    def _read_lines(self, after: Line[Row] | None = None) -> Iterator[Line[Row]]:
        advice = "Mend or delete the line, and the photo is described again."
        return read_lines(self.folder / ROWS_FILE, _read, wanted="a description", advice=advice, after=after)

    def _held(self) -> contextlib.AbstractContextManager[None]:
        return held(self.folder / _LOCK, wait=True)


def object_of(doubt: Mapping[str, Any]) -> str:
    """What a doubtful word is a mention of: the object of CHAIR's list, else the word itself, in lower case."""
    return str(doubt["category"] or doubt["word"].lower())


def _has(path: Path, line: Line[Row]) -> bool:
    """Whether a line is where it was: then so are all before it, whoever sorted them."""
    try:
        with path.open("rb") as file:
            file.seek(line.start)
            return _read(file.read(line.end - line.start)) == line.value
    except (OSError, ValueError):
        return False


def _read(line: bytes) -> Row:
    row = parse_json(decode(line, "the line"), "the line")
    if not isinstance(row, dict) or not {"image", "method", "text", "doubts", "error"} <= row.keys():
        raise DataFileError("the line is no description: it lacks fields")
    return row


def _together(known: Any, given: Mapping[str, Any], path: Path) -> Row:
    """The settings of a folder, with the methods that are new."""
    if not isinstance(known, dict) or not isinstance(known.get("methods"), dict):
        raise DataFileError(
            f"settings of another form: got {path}; expected what describing photos wrote there. Give another --output."
        )
    new = {name: value for name, value in given.items() if name != "methods"} | given["methods"]
    for name, was in {**known, **known["methods"]}.items():
        if new.get(name, was) != was:
            raise ConfigError(
                f"described with other settings before: got {name} {json_text(new[name])}; expected {json_text(was)}, "
                f"as {path} says. Give another --output, or delete that one."
            )
    return {**known, "methods": {**known["methods"], **given["methods"]}}
