"""A language model and what was trained on it become one checkpoint that loads like any other.

What was trained is a folder with `parts.json` (sizes, and which language model) and `trained.safetensors`: the tower,
the projector, and for each linear layer of the language model two low-rank factors, whose product is added to it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from scr import ModelLoadError
from scr.checkpoints.digests import folder_digest
from scr.files import read_json

from ..cache import cache_root, made_once
from .building import TowerSize, build_model, build_processor
from .fetching import decoder_folder

__all__ = ["PARTS", "WEIGHTS", "assemble", "assembled_folder"]

PARTS, WEIGHTS = "parts.json", "trained.safetensors"
_FORMAT = 1  # of what is assembled; another one is another folder in the cache


def assembled_folder(parts: Path) -> Path:
    """Return the checkpoint of what was trained and the language model, put together in the user's cache once.

    Raises:
        ModelLoadError: If the language model was not fetched, or as `assemble`.
    """
    decoder = decoder_folder()
    state = hashlib.sha256(f"{_FORMAT}\n{decoder.name}\n{folder_digest(parts)}".encode()).hexdigest()
    return made_once(cache_root() / f"{parts.name}-{state[:10]}", lambda folder: assemble(parts, decoder, folder))


def assemble(parts: Path, decoder: Path, folder: Path) -> None:
    """Merge what was trained into the language model, in float32, and save all in bfloat16.

    Args:
        parts: Folder of what was trained.
        decoder: Folder of the language model.
        folder: Where to write; made if absent.

    Raises:
        ModelLoadError: If a part cannot be read or is missing, or does not fit the language model.
    """
    described = read_json(parts / PARTS)
    try:
        size, scale = TowerSize(**described["tower"]), float(described["alpha"]) / int(described["rank"])
        weights = load_file(parts / WEIGHTS)
    except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
        raise ModelLoadError(
            f"trained parts cannot be read: got {type(error).__name__}: {error} in {parts}; expected what "
            "`python -m benchmarks.lab.smol train` writes. Install or train them again."
        ) from error
    model: Any = build_model(decoder, size)
    inner = model.model
    _load(inner.vision_tower, "tower", weights)
    _load(inner.multi_modal_projector, "projector", weights)
    merge(inner.language_model, weights, scale)
    model.to(torch.bfloat16)
    model.save_pretrained(folder)
    build_processor(decoder, size).save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes for the owner alone


def merge(decoder: nn.Module, weights: dict[str, Tensor], scale: float) -> None:
    """Add to each linear layer the product of its factors: `lora.<layer>.B` @ `lora.<layer>.A`, times `scale`.

    Raises:
        ModelLoadError: If a factor has no layer of its shape.
    """
    layers = dict(decoder.named_modules())
    for key in sorted(weights):
        if not key.startswith("lora.") or not key.endswith(".A"):
            continue
        name = key.removeprefix("lora.").removesuffix(".A")
        down, up = weights[key].float(), weights.get(f"lora.{name}.B", torch.empty(0, 0)).float()
        layer = layers.get(name)
        shape = tuple(layer.weight.shape) if isinstance(layer, nn.Linear) else None
        if shape != (up.shape[0], down.shape[1]) or up.shape[1] != down.shape[0]:
            raise ModelLoadError(
                f"a language model of other shapes than what was trained on it: got {name} of {shape}; expected "
                f"{(up.shape[0], down.shape[1])}. Fetch the one that it was trained on: "
                "`python -m benchmarks.lab.smol fetch`."
            )
        assert isinstance(layer, nn.Linear)
        with torch.no_grad():
            layer.weight += scale * (up @ down)


def _load(module: nn.Module, prefix: str, weights: dict[str, Tensor]) -> None:
    own = {key.removeprefix(f"{prefix}."): value for key, value in weights.items() if key.startswith(f"{prefix}.")}
    try:
        module.load_state_dict(own)
    except RuntimeError as error:
        raise ModelLoadError(
            f"trained parts do not fit: got {' '.join(str(error).split())[:300]}; expected the {prefix} that "
            f"{PARTS} describes. Install or train them again."
        ) from error
