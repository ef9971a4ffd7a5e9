"""Which adapter a command means, and whether it was trained on the images that it is to be measured on."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path

from scr import AdapterLoadError, ConfigError
from scr.adapters import IMAGES_FILE, AdapterSource, find_adapter, image_file_digest, list_adapters

from .lab import ADAPTERS, adapter_folder
from .models import LAB_PREFIX, ModelSource
from .suggest import suggestion


def resolve_adapter(name: str, source: ModelSource) -> AdapterSource:
    """Find an adapter for a model; nothing is loaded.

    Args:
        name: a lab name, a name of `scr.list_adapters()`, a local folder, or a hub id.
        source: the model.

    Raises:
        AdapterLoadError: if there is none.
        ConfigError: if it says that it was trained on another model, or on another state of this one.
    """
    found = find_adapter(_location(name))
    found = dataclasses.replace(found, name=name)
    if found.base and not found.base_is_folder and source.name.casefold() != found.base.casefold():
        # A folder may hold a copy of the base model; there the shapes must do.
        if source.folder is None or source.is_lab:
            raise ConfigError(
                f"adapter of another model: got {name!r}, trained on {found.base!r}, for {source.name!r}; expected "
                f"one that was trained on {source.name!r}. Give --model {found.base}, or another adapter."
            )
    elif _is_state(found.base_revision) and source.revision not in (None, found.base_revision):
        raise ConfigError(
            f"adapter of another state of the model: got {name!r}, trained on {found.base!r} at "
            f"{str(found.base_revision)[:20]}, for {str(source.revision)[:20]}; expected the same. "
            "Give --revision, or train the adapter again."
        )
    return found


def recorded_adapter(source: AdapterSource) -> str:
    """What records call an adapter: its name, and the digest of its files."""
    return f"{source.name}@{source.revision}"


def overlapping_images(source: AdapterSource, images: Iterable[Path]) -> list[Path]:
    """The images that an adapter was trained on, by the digests of their files; in the order given.

    Args:
        source: the adapter; one without `training_images.txt` does not say what it was trained on.
        images: the images to be asked about.
    """
    path = source.config.parent / IMAGES_FILE
    if not path.is_file():
        return []
    trained = set(path.read_text(encoding="utf-8").split())
    return [image for image in dict.fromkeys(images) if image_file_digest(image) in trained]


def check_overlap(source: AdapterSource, images: Iterable[Path], allowed: bool) -> int:
    """How many images an adapter was trained on, if that is allowed.

    Raises:
        ConfigError: if it is not, and there is one.
    """
    found = overlapping_images(source, images)
    if found and not allowed:
        raise ConfigError(
            f"images that the adapter was trained on: got {len(found)}, the first {found[0].name}, for "
            f"{source.name!r}; expected none, since what was learnt by heart is no evidence. Choose another split, or "
            "give --allow-overlap to measure all the same; the number is recorded."
        )
    return len(found)


def _is_state(revision: str | None) -> bool:
    """Whether it is a commit or digest, and no branch, which is another state every day."""
    return revision is not None and re.fullmatch(r"[0-9a-f]{40}|sha256:.*", revision) is not None


def _location(name: str) -> str:
    if not name.startswith(LAB_PREFIX):
        return name
    if name not in ADAPTERS:
        raise AdapterLoadError(
            f"unknown lab adapter: got {name!r}; expected one of {', '.join(ADAPTERS)}, {', '.join(list_adapters())}, "
            f"a folder or a hub id. {suggestion(name, ADAPTERS)}"
        )
    try:
        return str(adapter_folder(name))
    except FileNotFoundError as error:
        raise AdapterLoadError(str(error)) from error
