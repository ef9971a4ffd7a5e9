"""Find an adapter: a name of the table or of a package, a folder, or a hub id. Safetensors only, never pickles."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from transformers.utils import cached_file

from .._hooks import suggestion
from ..checkpoints.named import named_folder
from ..errors import AdapterLoadError, DataFileError
from ..files import read_json, read_text

_HUB_ID = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*")
_CHECK = "Check the name and the network."
CONFIG_FILE, WEIGHTS_FILE, IMAGES_FILE = "adapter_config.json", "adapter_model.safetensors", "training_images.txt"
_IMAGE_DIGEST = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, kw_only=True)
class AdapterEntry:
    """An adapter that can be named without knowing where it lies.

    Attributes:
        repository: its hub id.
        base: hub id of the model that it was trained on.
        summary: one line about it.
    """

    repository: str
    base: str
    summary: str


# Name → where it lies.                                                               ← the only line to add
ADAPTERS: dict[str, AdapterEntry] = {
    "refusal": AdapterEntry(
        repository="NANI-Nithin/SmolVLM-Hallucination-Defense",
        base="HuggingFaceTB/SmolVLM2-2.2B-Instruct",
        summary="the source's own discriminative refusal; never loaded by us",
    )
}


@dataclass(frozen=True, kw_only=True)
class AdapterSource:
    """An adapter that was found and not yet put on a model.

    Attributes:
        name: as the user gave it.
        config: its `adapter_config.json`.
        weights: its `adapter_model.safetensors`.
        images: its `training_images.txt`; None where it has none.
        revision: `sha256:...` over configuration and weights.
        base: what it says that it was trained on; None if it does not say.
        base_revision: of that; None if it does not say.
    """

    kind: ClassVar[str] = "adapter"

    name: str
    config: Path
    weights: Path
    images: Path | None
    revision: str
    base: str | None
    base_revision: str | None

    @property
    def base_is_folder(self) -> bool:
        """Whether it was trained on a folder, here or elsewhere, which may hold any model."""
        return names_folder(self.base)

    @property
    def recorded(self) -> str:
        """What records call it: its name, and the digest of its files."""
        return f"{self.name}@{self.revision}"


def names_folder(model: str | None) -> bool:
    """Whether a model's name is a folder's, here or elsewhere, and no hub id."""
    return bool(model) and (_HUB_ID.fullmatch(str(model)) is None or Path(str(model)).exists())


def list_adapters() -> list[str]:
    """Names that `scr.adapter` takes beside folders and hub ids."""
    return list(ADAPTERS)


def find_adapter(name: str, revision: str | None = None) -> AdapterSource:
    """Find an adapter without touching a model.

    Args:
        name: a name of `scr.list_adapters()`, one that a package brings such as `lab/refusal`, a local folder, or a
            hub id.
        revision: branch, tag or commit on the hub.

    Raises:
        AdapterLoadError: if there is none, it has no safetensors, or cannot be read.
    """
    config, weights, images = _files(name, revision)
    content = read_configuration(config)
    try:
        digest = hashlib.sha256(config.read_bytes())
        with weights.open("rb") as file:
            for chunk in iter(lambda: file.read(1 << 20), b""):
                digest.update(chunk)
    except OSError as error:
        raise _unreadable(weights, error) from error
    return AdapterSource(
        name=name,
        config=config,
        weights=weights,
        images=images,
        revision=f"sha256:{digest.hexdigest()}",
        base=_text(content, "base_model_name_or_path", config),
        base_revision=_text(content, "revision", config),
    )


def read_configuration(path: Path) -> dict[str, Any]:
    """What an `adapter_config.json` says.

    Raises:
        AdapterLoadError: if it is no JSON object.
    """
    try:
        content = read_json(path)
    except DataFileError as error:
        raise _unreadable(path, error) from error
    if not isinstance(content, dict):
        raise _unreadable(path, f"a {type(content).__name__}")
    return content


def _text(content: dict[str, Any], name: str, path: Path) -> str | None:
    value = content.get(name)
    if value is not None and not isinstance(value, str):
        raise _unreadable(path, f"{name} = {value!r}, which is no text")
    return value


def _unreadable(path: Path, why: object) -> AdapterLoadError:
    return AdapterLoadError(
        f"adapter cannot be read: got {path} ({why}); expected what peft writes. Download or train it again."
    )


def trained_images(source: AdapterSource) -> set[str] | None:
    """Digests of the images that an adapter was trained on, as `image_file_digest` gives them; None if it has no list.

    Raises:
        AdapterLoadError: for a list that is none.
    """
    if source.images is None:
        return None
    try:
        digests = set(read_text(source.images).split())
    except DataFileError as error:
        raise _unreadable(source.images, error) from error
    if wrong := sorted(digest for digest in digests if not _IMAGE_DIGEST.fullmatch(digest)):
        raise _unreadable(source.images, f"{wrong[0][:40]!r}, which is no digest")
    return digests or None


def _files(name: str, revision: str | None) -> tuple[Path, Path, Path | None]:
    folder = named_folder("adapter", name) or Path(name).expanduser()
    if folder.is_dir():
        missing = [file for file in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / file).is_file()]
        if missing:
            pickles = sorted(path.name for path in folder.glob("*.bin"))
            why = f"; {', '.join(pickles)} may run code when it is read" if pickles else ""
            raise AdapterLoadError(
                f"no adapter in this folder: got {name!r} without {' and '.join(missing)}{why}; expected both. "
                "Give the folder that peft's save_pretrained wrote, with safetensors."
            )
        images = folder / IMAGES_FILE
        return folder / CONFIG_FILE, folder / WEIGHTS_FILE, images if images.is_file() else None
    repository = ADAPTERS[name].repository if name in ADAPTERS else name
    try:
        found = [cached_file(repository, file, revision=revision) for file in (CONFIG_FILE, WEIGHTS_FILE)]
    except (OSError, ValueError) as error:
        raise AdapterLoadError(
            f"adapter not found: got {name!r} ({' '.join(str(error).split())}); expected one of {list_adapters()}, a "
            f"local folder, or a hub id with safetensors. {suggestion(name, ADAPTERS, _CHECK)}"
        ) from error
    try:
        found.append(cached_file(repository, IMAGES_FILE, revision=revision))
    except (OSError, ValueError):
        found.append(None)
    config, weights, listed = found
    return Path(str(config)), Path(str(weights)), None if listed is None else Path(listed)
