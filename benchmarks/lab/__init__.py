"""The lab: a small world whose ground truth is exact, and small models of real classes trained in it.

It stands in for pretrained models and real photographs where none can be downloaded. Its numbers are lab numbers.
"""

from __future__ import annotations

from pathlib import Path

from scr.errors import suggestion

__all__ = [
    "ADAPTERS",
    "ASSEMBLED",
    "CHECKPOINTS",
    "MODELS",
    "PREDICTORS",
    "adapter_folder",
    "checkpoint_folder",
    "data_folder",
    "named_folder",
    "predictor_folder",
    "splits_of",
]

# Name of a model → its folder below this one.                          ← the only line to add for a new model
CHECKPOINTS: dict[str, str] = {
    "lab/llava": "checkpoints/llava",
    "lab/qwen2_vl": "checkpoints/qwen2_vl",
    "lab/internvl": "checkpoints/internvl",
}

# Name of a model of which only what was trained is here → its folder; the rest is a language model that is fetched.
ASSEMBLED: dict[str, str] = {"lab/smol": "checkpoints/smol"}
_PARTS = "parts.json"

MODELS = (*CHECKPOINTS, *ASSEMBLED)
"""Every name of a model."""

# Name of an adapter of lab/llava → its folder below this one.
ADAPTERS: dict[str, str] = {
    "lab/refusal": "adapters/refusal",
    "lab/seed": "adapters/seed",
}

# Name of a model → the folder of its predictor for one-pass SCR below this one.
PREDICTORS: dict[str, str] = {
    "lab/llava": "predictors/llava",
    "lab/smol": "predictors/smol",
}


def checkpoint_folder(name: str) -> Path:
    """Return the folder of an embedded model, ready for ``from_pretrained``; one of `ASSEMBLED` is put together once.

    Raises:
        ValueError: If there is no model of that name.
        FileNotFoundError: If the model has not been trained yet or was not installed.
        ModelLoadError: If the language model that it needs was not fetched, or does not fit what was trained.
    """
    if name in ASSEMBLED:
        from .pretrained.assembling import assembled_folder  # late: it imports torch

        train = "benchmarks.lab.smol train"
        return assembled_folder(_embedded(name, ASSEMBLED, "model", "trained parts of", _PARTS, train))
    return _embedded(name, CHECKPOINTS, "model", "checkpoint of", "config.json", "benchmarks.lab.train {}")


def adapter_folder(name: str) -> Path:
    """Return the folder of an embedded adapter.

    Raises:
        ValueError: If there is no adapter of that name.
        FileNotFoundError: If it has not been trained yet or was not installed.
    """
    return _embedded(name, ADAPTERS, "adapter", "adapter", "adapter_config.json", "benchmarks.lab.adapt {}")


def predictor_folder(name: str) -> Path:
    """Return the folder of one-pass SCR's predictor for an embedded model.

    Raises:
        ValueError: If that model has none.
        FileNotFoundError: If it was not installed.
    """
    return _embedded(name, PREDICTORS, "predictor", "predictor for", "predictor.json", "scr.onepass train")


def named_folder(kind: str, name: str) -> Path:
    """The folder of a "model", an "adapter" or a "predictor": how `scr` finds `lab/...`, by an entry point.

    Raises:
        ValueError, FileNotFoundError: as `checkpoint_folder`, `adapter_folder` and `predictor_folder`.
    """
    return {"model": checkpoint_folder, "adapter": adapter_folder, "predictor": predictor_folder}[kind](name)


def _embedded(name: str, table: dict[str, str], kind: str, what: str, file: str, command: str) -> Path:
    """The folder that a table has for a name, if the file is there that every such folder has."""
    known = MODELS if kind == "model" else tuple(table)
    if name not in table:
        raise ValueError(
            f"unknown lab {kind}: got {name!r}; expected one of {', '.join(known)}. "
            f"{suggestion(name, known, f'Choose one of these, or give a hub id or a local folder as the {kind}.')}"
        )
    folder = Path(__file__).parent / table[name]
    if not (folder / file).exists():
        raise FileNotFoundError(
            f"no {what} {name!r}: got no {file} in {folder}; expected a trained {kind} there. "
            f"Reinstall scr-vlm, or train it with `python -m {command.format(Path(table[name]).name)}`."
        )
    return folder


def data_folder(split: str, count: int, model: str = "lab/llava") -> Path:
    """Return a folder in COCO's layout with the first ``count`` images of a model's own world, made on first use.

    Args:
        split: One of `splits_of` the model.
        count: How many images.
        model: The name of a lab model.
    """
    # Late: both import numpy and pillow.
    if model in ASSEMBLED:
        from .pictures.data import data_folder as make_pictures

        return make_pictures(split, count)
    from .world.data import data_folder as make

    return make(split, count)


def splits_of(model: str) -> tuple[str, ...]:
    """Return the splits of a lab model's own world."""
    if model in ASSEMBLED:
        from .pictures.config import SPLITS as PICTURES_SPLITS

        return tuple(PICTURES_SPLITS)
    from .world.config import SPLITS

    return tuple(SPLITS)
