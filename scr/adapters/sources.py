"""Find an adapter: a name of the table, a local folder, or a hub id. Safetensors only, never pickles."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from transformers.utils import cached_file

from ..errors import AdapterLoadError

_HUB_ID = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*")
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"


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
        revision: `sha256:...` over both files.
        base: what it says that it was trained on; None if it does not say.
        base_revision: of that; None if it does not say.
    """

    name: str
    config: Path
    weights: Path
    revision: str
    base: str | None
    base_revision: str | None

    @property
    def base_is_folder(self) -> bool:
        """Whether it was trained on a folder, here or elsewhere, which may hold any model."""
        base = self.base or ""
        return bool(base) and (_HUB_ID.fullmatch(base) is None or Path(base).exists())


def list_adapters() -> list[str]:
    """Names that `scr.adapter` takes beside folders and hub ids."""
    return list(ADAPTERS)


def find_adapter(name: str, revision: str | None = None) -> AdapterSource:
    """Find an adapter without touching a model.

    Args:
        name: a name of `scr.list_adapters()`, a local folder, or a hub id.
        revision: branch, tag or commit on the hub.

    Raises:
        AdapterLoadError: if there is none, or it has no safetensors.
    """
    config, weights = _files(name, revision)
    digest = hashlib.sha256(config.read_bytes())
    with weights.open("rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
        base, base_revision = content.get("base_model_name_or_path"), content.get("revision")
    except (ValueError, AttributeError) as error:
        raise AdapterLoadError(
            f"adapter cannot be read: got {config} ({error}); expected the JSON object of a peft configuration. "
            "Download or train it again."
        ) from error
    return AdapterSource(
        name=name,
        config=config,
        weights=weights,
        revision=f"sha256:{digest.hexdigest()}",
        base=base,
        base_revision=base_revision,
    )


def _files(name: str, revision: str | None) -> tuple[Path, Path]:
    folder = Path(name).expanduser()
    if folder.is_dir():
        missing = [file for file in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / file).is_file()]
        if missing:
            pickles = sorted(path.name for path in folder.glob("*.bin"))
            why = f"; {', '.join(pickles)} may run code when it is read" if pickles else ""
            raise AdapterLoadError(
                f"no adapter in this folder: got {name!r} without {' and '.join(missing)}{why}; expected both. "
                "Give the folder that peft's save_pretrained wrote, with safetensors."
            )
        return folder / CONFIG_FILE, folder / WEIGHTS_FILE
    repository = ADAPTERS[name].repository if name in ADAPTERS else name
    try:
        found = [cached_file(repository, file, revision=revision) for file in (CONFIG_FILE, WEIGHTS_FILE)]
    except (OSError, ValueError) as error:
        raise AdapterLoadError(
            f"adapter not found: got {name!r} ({' '.join(str(error).split())}); expected one of {list_adapters()}, a "
            "local folder, or a hub id with safetensors. Check the name and the network."
        ) from error
    return Path(str(found[0])), Path(str(found[1]))
