"""Copies of photos beside the page, small enough for it, and as a browser shows them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from PIL import Image

from ..images import ImageError, read_image
from .photos import Photo

FOLDER = "pictures"
LARGEST = 1024
"""Pixels of the longer side of a copy; a photo that is smaller is as it is."""
_LOSSLESS = 256


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
    stem = hashlib.sha256(photo.name.encode("utf-8", "surrogateescape")).hexdigest()[:20]
    for suffix in (".png", ".jpg"):
        path = folder / FOLDER / f"{stem}{suffix}"
        if path.exists() and (not photo.path.exists() or path.stat().st_mtime >= photo.path.stat().st_mtime):
            with Image.open(path) as known:
                return {"file": f"{FOLDER}/{path.name}", "size": list(known.size)}
    try:
        picture = read_image(photo.path)
    except ImageError:
        return None
    picture.thumbnail((LARGEST, LARGEST))
    path = folder / FOLDER / f"{stem}{'.png' if max(picture.size) <= _LOSSLESS else '.jpg'}"
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    picture.save(partial, "PNG" if path.suffix == ".png" else "JPEG", quality=85)  # JPEG alone takes the last
    partial.replace(path)
    return {"file": f"{FOLDER}/{path.name}", "size": list(picture.size)}
