"""What a folder of records says of itself before its first answer: of which protocol and model it is. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scr import ConfigError
from scr.fields import Count, Fields
from scr.files import read_json, write_json

from ..store import find_runs
from .declaration import Protocol, get_protocol

STAMP_FILE = "protocol.json"


@dataclass(frozen=True, kw_only=True)
class Stamp(Fields):
    """Written before the first answer, so that no row was declared after it was seen.

    Attributes:
        protocol: its name.
        version: its version.
        sha256: digest of all that it declares, cut short where this is a rehearsal.
        rehearsal: whether it is one.
        model: the model's name as given.
        revision: its commit, or a digest of its files.
        shape: what its text configuration has for the names in the declared shape.
        adapter: name and digest of what is put on it; None until a part that has one is run.
        started: when, ISO 8601 in UTC.
    """

    protocol: str
    version: Count
    sha256: str
    rehearsal: bool
    model: str
    revision: str | None
    shape: dict[str, int | None]
    adapter: str | None = None
    started: str

    def is_stand_in(self, protocol: Protocol) -> bool:
        """Whether the model is neither the declared one nor of its shape, as a copy of it would be."""
        return self.model != protocol.model and self.shape != protocol.shape

    def has_stand_in_adapter(self, protocol: Protocol) -> bool:
        """Whether the adapter is of another name than the declared one."""
        return self.adapter is not None and self.adapter.rpartition("@")[0] != protocol.adapter


def write_stamp(folder: Path, stamp: Stamp) -> None:
    """Stamp a folder, or go on in one that has this stamp; an adapter is added by the first part that has one.

    Raises:
        ConfigError: for a folder that holds runs and no stamp, or one of another protocol, declaration, model or
            adapter.
        DataFileError: for a stamp that cannot be read.
    """
    path = folder / STAMP_FILE
    if path.exists():
        there = read_stamp(folder)
        for entry in dataclasses.fields(Stamp):
            got, wanted = getattr(there, entry.name), getattr(stamp, entry.name)
            unknown = entry.name == "adapter" and None in (got, wanted)
            if entry.name != "started" and got != wanted and not unknown:
                raise ConfigError(
                    f"a folder of another {entry.name}: got {got!r} in {path}; expected {wanted!r}. Give another "
                    "--output-dir."
                )
        if there.adapter is None and stamp.adapter is not None:
            write_json(path, dataclasses.replace(there, adapter=stamp.adapter).to_dict())
        return
    if runs := find_runs(folder):
        raise ConfigError(
            f"rows that were run before they were declared: got {len(runs)} runs in {folder} without {STAMP_FILE}; "
            "expected none. Give another --output-dir."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, stamp.to_dict())


def read_stamp(folder: Path) -> Stamp:
    """The stamp of a folder.

    Raises:
        ConfigError: for a folder without one, or one that holds something else.
        DataFileError: for one that cannot be read.
    """
    path = folder / STAMP_FILE
    if not path.is_file():
        raise ConfigError(
            f"no folder of a protocol: got {folder} without {STAMP_FILE}; expected what `run` or `render` of "
            "benchmarks.protocol wrote. Check the path."
        )
    content = read_json(path)
    return Stamp.from_dict(content if isinstance(content, Mapping) else {})


def declared_by(stamp: Stamp) -> Protocol:
    """The protocol that a folder is of, cut short where it is a rehearsal.

    Raises:
        ConfigError: for one that this version does not know, or declares otherwise.
    """
    protocol = get_protocol(stamp.protocol)
    protocol = protocol.rehearsed() if stamp.rehearsal else protocol
    if stamp.sha256 != protocol.sha256:
        raise ConfigError(
            f"{stamp.protocol} was declared otherwise: got version {stamp.version}, {stamp.sha256[:12]}; expected "
            f"version {protocol.version}, {protocol.sha256[:12]}. Read it with the version of scr-vlm that wrote it."
        )
    return protocol
