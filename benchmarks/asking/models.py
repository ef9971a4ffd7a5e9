"""Find and load a model: a lab name, a local folder or a hub id, through the same transformers classes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from scr import ConfigError, ModelLoadError
from scr.checkpoints import loading
from scr.checkpoints.digests import folder_digest
from scr.checkpoints.settings import settings_beside
from scr.errors import suggestion

from ..lab import MODELS, checkpoint_folder

DTYPES = ("float32", "bfloat16", "float16")
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential", "cpu")
LAB_PREFIX = "lab/"


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A model that was found and not yet loaded.

    Attributes:
        name: as the user gave it.
        location: what `from_pretrained` is given: a folder or a hub id.
        folder: the local folder; None for the hub.
        revision: the hub's commit, or `sha256:...` over the files of a local folder.
        settings: methods' settings that the checkpoint comes with, as `scr.json` beside it says; empty if none.
        is_lab: whether it is one of the lab's own models.
    """

    name: str
    location: str
    folder: Path | None
    revision: str | None
    settings: dict[str, Any] = field(default_factory=dict)
    is_lab: bool = False

    @property
    def from_pretrained(self) -> dict[str, Any]:
        """What of it `from_pretrained` is told: a hub model is loaded at the commit that was found, so that a push in
        between cannot mix two states.
        """
        return {} if self.folder is not None else {"revision": self.revision}


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedModel:
    """A model in evaluation mode with its processor, which pads on the left.

    Attributes:
        name: as the user gave it.
        revision: see `ModelSource.revision`.
        model: the model, on its device.
        processor: its processor.
        folder: the local folder; None for the hub.
        settings: see `ModelSource.settings`.
    """

    name: str
    revision: str | None
    model: PreTrainedModel
    processor: Any
    folder: Path | None
    settings: dict[str, Any]


def find_model(name: str, revision: str | None = None) -> ModelSource:
    """Find a model without loading its weights.

    Args:
        name: a lab name such as `lab/llava`, a local folder, or a hub id such as `llava-hf/llava-1.5-7b-hf`.
        revision: branch, tag or commit of a hub model.

    Raises:
        ModelLoadError: if there is no such model, or it cannot be reached.
        ConfigError: for a revision of something that has none, or a settings file that is no JSON object.
    """
    name = name.strip()
    is_lab = name.startswith(LAB_PREFIX)
    folder = _lab_folder(name) if is_lab else _local_folder(name)
    if folder is None:
        return ModelSource(name=name, location=name, folder=None, revision=_hub_commit(name, revision))
    if revision is not None:
        raise ConfigError(
            f"a revision of a local model: got revision {revision!r} of {name!r}; expected none, since a folder holds "
            "one state. Leave --revision out, or give a hub id."
        )
    return ModelSource(
        name=name,
        location=str(folder),
        folder=folder,
        revision=folder_digest(folder),
        settings=settings_beside(folder),
        is_lab=is_lab,
    )


def load_model(
    name: str | ModelSource,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    attn_implementation: str | None = None,
    device_map: str | dict[str, Any] | None = None,
) -> LoadedModel:
    """Load a model and its processor.

    Args:
        name: see `find_model`, or what it returned.
        revision: branch, tag or commit of a hub model.
        dtype: one of `DTYPES`, or "auto" (see `resolve_dtype`).
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", ...
        attn_implementation: "sdpa", "eager", "flash_attention_2", ...; None leaves it to transformers.
        device_map: for a model that is larger than one device: one of `DEVICE_MAPS`, or module → device as
            `from_pretrained` takes it; `device` then decides an "auto" dtype alone. None puts all on `device`.

    Raises:
        ModelLoadError: if the model or its processor cannot be loaded.
        ConfigError: for an unknown dtype, device or map, or a map that leaves the first weights on no device.
    """
    source = name if isinstance(name, ModelSource) else find_model(name, revision)
    target = resolve_device(device)
    extra: dict[str, Any] = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    if device_map is not None:
        check_device_map(device_map)
        extra["device_map"] = device_map
    number_format = getattr(torch, resolve_dtype(dtype, target, source))
    processor = load_processor(source)
    with _quiet_progress():
        model = loading.load_weights(
            source.location, name=source.name, dtype=number_format, **extra, **source.from_pretrained
        )
    if device_map is None:
        torch.nn.Module.to(model, target)  # transformers' own is one, with a decorator that hides its signature
    if model.device.type == "meta":
        # Inputs are put where the first weights are.
        raise ConfigError(
            f"a device map that leaves the first weights on no device: got {device_map!r}; expected them on a GPU or "
            "the CPU. Give more memory, or a map that offloads later layers."
        )
    return LoadedModel(
        name=source.name,
        revision=source.revision,
        model=model,
        processor=processor,
        folder=source.folder,
        settings=source.settings,
    )


def load_processor(source: ModelSource) -> Any:
    """Load a model's processor alone; its tokenizer pads on the left.

    Raises:
        ModelLoadError: if it cannot be loaded, or has no tokenizer.
    """
    with _quiet_progress():
        return loading.load_processor(source.location, name=source.name, **source.from_pretrained)


def skeleton(source: ModelSource) -> PreTrainedModel:
    """The model without weights, on torch's meta device: enough to ask what a method would do to it.

    Raises:
        ModelLoadError: if its configuration cannot be read, or is of no model that can be loaded.
    """
    config = loading.load_config(source.location, name=source.name, **source.from_pretrained)
    try:
        with torch.device("meta"):
            return AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    except Exception as error:  # a configuration may hold anything
        raise ModelLoadError(
            f"no model of this configuration: got {source.name!r} ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}); expected a checkpoint that AutoModelForImageTextToText can load. "
            "Check the folder or the hub id."
        ) from error


def resolve_device(device: str) -> torch.device:
    """The device that a name means; "auto" is a GPU if there is one.

    Raises:
        ConfigError: for a name that torch does not know, or a GPU that is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except (RuntimeError, ValueError, OverflowError) as error:
        raise ConfigError(f"unknown device: got {device!r}; expected auto, cpu, cuda or cuda:N. Choose one.") from error
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"no GPU: got device {device!r}; expected cpu, as torch sees no GPU here. Use --device cpu.")
    if target.type == "cuda" and (target.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"no such GPU: got device {device!r}; expected cuda:0 to cuda:{torch.cuda.device_count() - 1}. Choose one."
        )
    if not _computes(target):
        raise ConfigError(
            f"no such device here: got {device!r}; expected auto, cpu or what this build of torch computes on. "
            "Choose another, or install torch for it."
        )
    return target


def _computes(device: torch.device) -> bool:
    """Whether torch can make a tensor there that holds numbers."""
    if device.type == "meta":
        return False
    try:
        torch.zeros(1, device=device)
    except Exception:  # not built in, not plugged in, without a driver: an error of its own for each
        return False
    return True


def check_device_map(device_map: str | dict[str, Any], device: str = "auto") -> None:
    """Refuse a device map that is unknown, or that contradicts the device.

    Raises:
        ConfigError: for either.
    """
    if isinstance(device_map, dict):
        for module, place in device_map.items():
            _check_place(module, place)
    elif device_map not in DEVICE_MAPS:
        raise ConfigError(
            f"unknown device map: got {device_map!r}; expected one of {', '.join(DEVICE_MAPS)}, or a JSON object "
            f"module → device. {suggestion(device_map, DEVICE_MAPS, 'For one device give --device.')}"
        )
    if device != "auto" and device_map != device:
        raise ConfigError(
            f"two places for one model: got device {device!r} and device map {device_map!r}; expected one. "
            "Leave --device out."
        )


def _check_place(module: str, place: Any) -> None:
    """Refuse a device that is not there: a number is that of a GPU."""
    if place == "disk":
        return
    if type(place) is int:
        place = f"cuda:{place}"
    if not isinstance(place, str) or place == "auto":
        raise ConfigError(
            f"unknown place in a device map: got {place!r} for {module!r}; expected cpu, disk, or a GPU by number or "
            "as cuda:N. Give another."
        )
    try:
        resolve_device(place)
    except ConfigError as error:
        raise ConfigError(f"in the device map, for {module!r}: {error}") from error


def resolve_dtype(dtype: str, device: torch.device, source: ModelSource) -> str:
    """The dtype that a name means; "auto" is float32 on a CPU, elsewhere the dtype that the checkpoint was saved in.

    Raises:
        ConfigError: for an unknown name.
    """
    if dtype in DTYPES:
        return dtype
    if dtype != "auto":
        raise ConfigError(f"unknown dtype: got {dtype!r}; expected auto or one of {', '.join(DTYPES)}. Choose one.")
    if device.type == "cpu":
        return "float32"
    saved = loading.load_config(source.location, name=source.name, **source.from_pretrained).dtype
    return str(saved).removeprefix("torch.") if saved is not None else "float32"


def _lab_folder(name: str) -> Path:
    if name not in MODELS:
        raise ModelLoadError(
            f"unknown lab model: got {name!r}; expected one of {', '.join(MODELS)}. {suggestion(name, MODELS)}"
        )
    try:
        return checkpoint_folder(name)
    except FileNotFoundError as error:
        raise ModelLoadError(str(error)) from error


def _local_folder(name: str) -> Path | None:
    """The folder that `name` is, None if it reads like a hub id."""
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return folder
    looks_like_hub = name.count("/") <= 1 and not name.startswith((".", "~", "/")) and not name.endswith("/")
    if folder.is_dir():
        raise ModelLoadError(
            f"no model in this folder: got {name!r} without a config.json; expected what `save_pretrained` writes. "
            "Give the folder of a checkpoint."
        )
    if not looks_like_hub:
        raise ModelLoadError(
            f"no such folder: got {name!r}; expected a local folder, a hub id (owner/name) or a lab model "
            f"({', '.join(MODELS)}). Check the path."
        )
    return None


def _hub_commit(name: str, revision: str | None) -> str | None:
    """The commit that a hub model's revision stands for now; the last one downloaded where there is no network."""
    try:
        path = cached_file(name, "config.json", revision=revision)
    except (OSError, ValueError) as error:
        at = "" if revision is None else f" at revision {revision!r}"
        problem = " ".join(str(error).split())
        raise ModelLoadError(
            f"model not found: got {name!r}{at} ({problem}); expected a local folder, a hub id (owner/name) or a lab "
            f"model ({', '.join(MODELS)}). Check the name and the network."
        ) from error
    return None if path is None else Path(path).parent.name  # .../snapshots/<commit>/config.json


@contextlib.contextmanager
def _quiet_progress() -> Iterator[None]:
    """No progress bar of transformers' in a log file."""
    was_on = transformers_logging.is_progress_bar_enabled() and not sys.stderr.isatty()
    if was_on:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            transformers_logging.enable_progress_bar()
