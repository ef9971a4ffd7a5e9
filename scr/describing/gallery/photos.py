"""Which photos are meant, what each is called, and which one it is. Standard library only: none is decoded here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ...errors import ConfigError

# What phones, cameras and the web write. One that Pillow cannot read is a row with a reason, not left out.
_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".heic", ".heif", ".avif", ".jp2", ".ppm", ".pgm"),
)


class Photo(NamedTuple):
    """A photo.

    Attributes:
        name: its path below the folder that was given, with "/" between its parts; or its file's name.
        path: where it lies, if it is there.
        held: SHA-256 of its file, where a table holds that; None for one that lies at its path.
    """

    name: str
    path: Path
    held: str | None = None

    def digest(self) -> str | None:
        """What tells the photo from another of its name: SHA-256 of its file; None where it cannot be read."""
        if self.held is not None:
            return self.held
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return None


def find_photos(given: Iterable[Path], without: Path) -> list[Photo]:
    """The photos that are meant: those in folders and below them, by name, and single files, there or not.

    Args:
        given: folders and files.
        without: a folder that is passed over: what is written there is no photo of the user's.

    Raises:
        ConfigError: for a folder that is not there or has none, and for two photos of one name.
    """
    found: dict[str, Path] = {}
    for place in given:
        for photo in _photos(place, without.resolve()):
            if found.setdefault(photo.name, photo.path).resolve() != photo.path.resolve():
                raise ConfigError(
                    f"two photos have one name: got {str(found[photo.name])!r} and {str(photo.path)!r}; expected each "
                    "name once. Give the folder that both lie below."
                )
    return [Photo(name, path) for name, path in found.items()]


def _photos(place: Path, without: Path) -> Iterator[Photo]:
    if not place.is_dir():
        if not place.exists() and place.suffix.lower() not in _SUFFIXES:
            raise ConfigError(
                f"no such folder: got {str(place)!r}; expected a folder of photos, or the file of one. Check the path."
            )
        yield Photo(place.name, place)
        return
    paths = sorted(
        path
        for path in place.rglob("*")
        if path.suffix.lower() in _SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(place).parts)
        and not path.is_dir()
        and not path.resolve().is_relative_to(without)
    )
    if not paths:
        raise ConfigError(
            f"no photos: got folder {str(place)!r} without one; expected files that end in .jpg, .png or their like. "
            "Check the path."
        )
    for path in paths:
        yield Photo(path.relative_to(place).as_posix(), path)
