"""Which adapter a command means, and whether it, or a method, was learnt from the images that are asked about."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from scr import ConfigError
from scr.adapters import AdapterSource, check_base, find_adapter, image_file_digest, trained_images

from ..asking.models import ModelSource


def resolve_adapter(name: str, source: ModelSource) -> AdapterSource:
    """Find an adapter for a model; nothing is loaded.

    Args:
        name: a lab name, a name of `scr.list_adapters()`, a local folder, or a hub id.
        source: the model.

    Raises:
        AdapterLoadError: if there is none.
        ConfigError: if it says that it was trained on another model, or on another state of this one.
    """
    found = find_adapter(name)
    check_base(found, source.name, source.revision)
    return found


def overlapping_images(source: AdapterSource, images: Iterable[Path]) -> list[Path] | None:
    """The images that an adapter was trained on, by the digests of their files; in the order given.

    Args:
        source: the adapter.
        images: the images to be asked about.

    Returns:
        None for an adapter that does not say what it was trained on.

    Raises:
        ConfigError: for a list that cannot be read.
    """
    trained = trained_images(source)
    if trained is None:
        return None
    return _known(trained, images)


def _known(digests: Collection[str], images: Iterable[Path]) -> list[Path]:
    return [image for image in dict.fromkeys(images) if image_file_digest(image) in digests]


def check_learnt(method: str, digests: Collection[str], images: Iterable[Path], allowed: bool) -> None:
    """Refuse to measure a method on images that its configuration was learnt from.

    Args:
        method: its name.
        digests: of those images, as `MethodConfig.learnt_on` has them.
        images: the images to be asked about; read only if there are digests.
        allowed: whether it is done all the same.

    Raises:
        ConfigError: if it is not allowed, and there is one.
    """
    if digests and not allowed and (found := _known(digests, images)):
        raise ConfigError(
            f"images that the method was calibrated on: got {len(found)}, the first {found[0].name}, for {method!r}; "
            "expected none, since what was learnt by heart is no evidence. Choose another split, or give "
            "--allow-overlap to measure all the same."
        )


def check_overlap(source: AdapterSource, images: Iterable[Path], allowed: bool) -> int | None:
    """How many images an adapter was trained on, if that is allowed; None where it does not say.

    Raises:
        ConfigError: if it is not allowed, and there is one or there may be.
    """
    found = overlapping_images(source, images)
    if found and not allowed:
        raise ConfigError(
            f"images that the adapter was trained on: got {len(found)}, the first {found[0].name}, for "
            f"{source.name!r}; expected none, since what was learnt by heart is no evidence. Choose another split, or "
            "give --allow-overlap to measure all the same; the number is recorded."
        )
    if found is None and not allowed:
        raise ConfigError(
            f"images that the adapter may have been trained on: got no training_images.txt in "
            f"{source.config.parent} for {source.name!r}; expected the digests of its images, without which nobody "
            "knows. Finish its training, or give --allow-overlap to measure all the same; it is recorded as not known."
        )
    return None if found is None else len(found)
