"""A predictor's folder: weights as safetensors, and a card as JSON. What does not fit is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from ..checkpoints.named import named_folder
from ..errors import ConfigError, DataFileError
from ..fields import FieldError
from ..files import read_bytes, read_json, write_bytes, write_json
from .card import PredictorCard
from .predictor import Predictor, untrained

CARD_FILE, WEIGHTS_FILE = "predictor.json", "predictor.safetensors"
UNTRAINED = "untrained"
"""The name of `predictor.untrained` in place of a folder."""


def save_predictor(predictor: Predictor, folder: Path) -> None:
    """Write a predictor; what lay in the folder's two files goes.

    Raises:
        OSError: where they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # A kill between the two must not leave new weights with the card of others: they would be believed.
    (folder / CARD_FILE).unlink(missing_ok=True)
    weights = {name: one.detach().cpu().contiguous() for name, one in predictor.state_dict().items()}
    write_bytes(folder / WEIGHTS_FILE, save(weights))
    write_json(folder / CARD_FILE, predictor.card.to_dict())


def load_predictor(name: str, model: Any) -> Predictor:
    """A predictor for a model.

    Args:
        name: a folder, a name that a package brings such as `lab/llava`, or `"untrained"`.
        model: what it is to be used on.

    Raises:
        ConfigError: for a predictor of other models, or one that is not there.
        DataFileError: for files that cannot be read as one.
    """
    wanted = (model.config.model_type, model.config.get_text_config().hidden_size)
    if name == UNTRAINED:
        return untrained(*wanted)
    folder = named_folder("predictor", name) or Path(name).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f"no predictor: got {name!r}; expected a folder with {CARD_FILE} and {WEIGHTS_FILE}, a name such as "
            f"lab/llava, or {UNTRAINED!r}. Train one: python -m scr.onepass train."
        )
    card = _read_card(folder / CARD_FILE)
    if (card.model_type, card.width) != wanted:
        raise ConfigError(
            f"predictor of other models: got {name!r}, made for {card.model_type!r} of width {card.width}; expected "
            f"{wanted[0]!r} of width {wanted[1]}, as this model is. Train one for it: python -m scr.onepass train."
        )
    predictor = Predictor(card)
    _fill(predictor, folder / WEIGHTS_FILE)
    return predictor.eval()


def _read_card(path: Path) -> PredictorCard:
    content = read_json(path, once=True)
    try:
        return PredictorCard.from_dict(content)
    except FieldError as error:
        raise DataFileError(
            f"no card of a predictor: got {path} ({error}); expected what python -m scr.onepass train writes. Train it "
            "again."
        ) from error


def _fill(predictor: Predictor, path: Path) -> None:
    """Give a predictor the weights in a file: all, of the right shapes, and finite."""
    try:
        weights = load(read_bytes(path))
    except (SafetensorError, ValueError) as error:
        if isinstance(error, DataFileError):
            raise
        raise DataFileError(
            f"predictor cannot be read: got {path} ({error}); expected safetensors. Train or download it again."
        ) from error
    found = {name: tuple(one.shape) for name, one in weights.items()}
    expected = {name: tuple(one.shape) for name, one in predictor.state_dict().items()}
    finite = all(bool(one.isfinite().all()) and one.dtype == torch.float32 for one in weights.values())
    if found != expected or not finite:
        got = found if found != expected else "numbers that are not finite float32"
        raise DataFileError(
            f"weights of another predictor: got {got} in {path}; expected {expected}, which its card says. Train or "
            "download it again."
        )
    predictor.load_state_dict(weights)
