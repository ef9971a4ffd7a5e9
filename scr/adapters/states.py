"""What a training leaves on disk: its state while it runs, and the adapter with its record when it is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..errors import ConfigError
from ..files import write_json, write_text
from ..files import write_rows as write_json_rows
from .recipe import TrainingRecipe
from .rows import Row, image_digests
from .sources import IMAGES_FILE, WEIGHTS_FILE

LOG_FILE, STATE_FILE, RECORD_FILE = "log.jsonl", "state.pt", "training.json"


def save_adapter(
    folder: Path,
    config: Any,
    weights: Mapping[str, Tensor],
    recipe: TrainingRecipe,
    rows: Sequence[Row],
    kind: str,
    log: Sequence[Mapping[str, Any]],
) -> None:
    """Write the adapter as peft reads it, with a record of its training and the digests of its images.

    One rename finishes it, that of the weights: a folder without them is no adapter, one with them has all the rest.
    The state of the training, which is not needed any more, is removed.
    """
    config.save_pretrained(folder)
    digests = image_digests(rows)
    write_text(folder / IMAGES_FILE, "".join(f"{digest}\n" for digest in digests))
    record = {
        "kind": kind,
        "base": config.base_model_name_or_path,
        "base_revision": config.revision,
        "recipe": recipe.to_dict(),
        "rows": len(rows),
        "images": len(digests),
        "steps": len(log),
        "last": {name: value for name, value in log[-1].items() if name not in ("it_s", "eta_s")} if log else {},
    }
    write_json(folder / RECORD_FILE, record, indent=1)
    _write(folder / WEIGHTS_FILE, lambda path: save_file(dict(weights), path))
    (folder / STATE_FILE).unlink(missing_ok=True)


def training_key(
    recipe: TrainingRecipe, rows: Sequence[Row], base: str, revision: str | None, kind: str, quantized: bool = False
) -> str:
    """Digest of all that the result depends on; the images by their names."""
    content = [kind, base, revision, recipe.to_dict(), [[str(r.image), r.question, r.answer] for r in rows]]
    content += ["quantized"] * quantized
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_state(folder: Path, key: str) -> dict[str, Any] | None:
    """The state that a training was stopped in; None where there is none.

    Raises:
        ConfigError: for a finished adapter, a state of another training, or a broken one.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        if (folder / WEIGHTS_FILE).exists():
            raise ConfigError(
                f"an adapter is there already: got {folder} with {WEIGHTS_FILE}; expected a folder without one. "
                "Give another folder, or delete it."
            )
        return None
    try:
        # Not to the device that it was saved on, which another process has, or nobody here.
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        known = state["key"]
    except Exception as error:  # torch.load raises as many kinds as there are ways to be broken
        raise ConfigError(
            f"state of a training cannot be read: got {path} ({type(error).__name__}: {error}); expected one that a "
            "training wrote. Delete the file, and the training begins anew."
        ) from error
    if known != key:
        raise ConfigError(
            f"a state of another training: got {path}; expected one of this model, data and recipe. "
            "Give another folder, or delete the file."
        )
    return state


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Save a state in place of the last one."""
    _write(folder / STATE_FILE, lambda path: torch.save(dict(state), path))


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    """A kill while writing leaves the last file whole."""
    partial = path.with_name(f"{path.name}.partial")
    write(partial)
    partial.replace(path)


def write_log(folder: Path, log: Sequence[Mapping[str, Any]]) -> None:
    """Write the log, one entry per line."""
    write_json_rows(folder / LOG_FILE, log)
