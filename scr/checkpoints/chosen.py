"""What a command's `--model`, `--dtype` and `--device` mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError, ModelLoadError
from .digests import folder_digest
from .loading import load_config, load_processor, load_weights
from .named import named_folder


def locate(name: str) -> Path:
    """Where a model of that name lies, if it is no hub model; nothing of it is read.

    Who hands it to `from_pretrained` takes `as_posix()`: it may be a hub id still, whose slash Windows turns round.
    """
    return named_folder("model", name) or Path(name).expanduser()


def find_model(name: str) -> tuple[str, str | None]:
    """Where a model lies, and what names its state: the digest of a folder; of a hub model that is its commit.

    Raises:
        ModelLoadError: for a folder that may not be read.
    """
    folder = locate(name)
    try:
        return (str(folder), folder_digest(folder)) if folder.is_dir() else (name, None)
    except OSError as error:
        raise ModelLoadError(
            f"model cannot be read: got {name!r} ({error}); expected a folder that may be read. Check its files."
        ) from error


def find_device(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU if there is one.

    Raises:
        ConfigError: for one that is unknown, not there, or neither a CPU nor a GPU.
    """
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        if name not in ("auto", str(device)):  # a number above 127 becomes another one
            raise RuntimeError(f"{name} read as {device}")
    except RuntimeError as error:
        raise ConfigError(f"unknown device: got {name!r}; expected cpu, cuda or auto. Choose one.") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"a device that is not trained on: got {name!r}; expected cpu, cuda or auto. Choose one.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"no such device: got {name!r} where torch sees {torch.cuda.device_count()} GPUs; expected cpu or auto. "
            "Leave --device out."
        )
    return device


def chosen_dtype(name: str, dtype: str, device: torch.device) -> str:
    """The dtype of that name; "auto" is float32 on a CPU, elsewhere the one that the model was saved in.

    Raises:
        ModelLoadError: for "auto", where the model's configuration cannot be read.
    """
    if dtype != "auto":
        return dtype
    saved = None if device.type == "cpu" else load_config(locate(name).as_posix(), name=name).dtype
    return "float32" if saved is None else str(saved).removeprefix("torch.")


def load_chosen(name: str, dtype: str, device: str) -> tuple[Any, Any, str | None]:
    """A model on its device, its processor, and what names its state.

    Raises:
        ModelLoadError: for a model that cannot be loaded.
        ConfigError: for an unknown device.
    """
    location, digest = find_model(name)
    target = find_device(device)
    processor = load_processor(location, name=name)
    model = load_weights(location, dtype=getattr(torch, chosen_dtype(name, dtype, target)), name=name)
    torch.nn.Module.to(model, target)  # transformers' own is one, with a decorator that hides its signature
    return model, processor, digest or getattr(model.config, "_commit_hash", None)
