"""Copies of photos beside the page, small enough for it, and as a browser shows them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from PIL import Image

from ...files import write_bytes
from ..images import ImageError, read_image
from .photos import Photo

FOLDER = "pictures"
LARGEST = 1024
"""Pixels of the longer side of a copy; a photo that is smaller is as it is."""
_LOSSLESS = 256
_SUFFIXES = (".png", ".jpg")


def copied(photo: Photo, folder: Path) -> dict[str, Any] | None:
    """What the page knows of a photo's copy, which is made where it is not there, or older than the photo.

    Args:
        photo: the photo.
        folder: the page's.

    Returns:
        `file`, below the page's folder, and `size`, in pixels; None for a photo that is not there or cannot be read.

    Raises:
        OSError: where the copy cannot be written.
    """
    for path in _places(photo.name, folder):
        if path.exists() and (not photo.path.exists() or path.stat().st_mtime >= photo.path.stat().st_mtime):
            with Image.open(path) as known:
                return {"file": f"{FOLDER}/{path.name}", "size": list(known.size)}
    try:
        picture = read_image(photo.path)
    except ImageError:
        return None
    picture.thumbnail((LARGEST, LARGEST))
    lossless, lossy = _places(photo.name, folder)
    path = lossless if max(picture.size) <= _LOSSLESS else lossy
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    picture.save(partial, "PNG" if path.suffix == ".png" else "JPEG", quality=85)  # JPEG alone takes the last
    partial.replace(path)
    return {"file": f"{FOLDER}/{path.name}", "size": list(picture.size)}


def has_copy(name: str, folder: Path) -> bool:
    """Whether a photo of that name has a copy beside the page in the folder."""
    return any(path.exists() for path in _places(name, folder))


def keep_copy(file: str, content: bytes, folder: Path) -> None:
    """Put a copy beside the page in the folder, in place of any that the photo had.

    Args:
        file: what `copied` called it, in whatever folder it made it.
        content: of that file.
        folder: the page's.

    Raises:
        OSError: where it cannot be written.
    """
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    for suffix in _SUFFIXES:
        path.with_suffix(suffix).unlink(missing_ok=True)
    write_bytes(path, content)


def _places(name: str, folder: Path) -> list[Path]:
    """Where a photo's copy may lie: without and with losses."""
    stem = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:20]
    return [folder / FOLDER / f"{stem}{suffix}" for suffix in _SUFFIXES]
