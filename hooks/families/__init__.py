"""The table of model families: `config.model_type` → family. A new family is one file and one line here."""

from __future__ import annotations

from transformers import PreTrainedModel

from ..errors import UnsupportedModelError, suggestion
from .base import ImagePatches, ModelFamily, PatchGrid
from .llava import Llava

FAMILIES: dict[str, ModelFamily] = {family.name: family for family in (Llava(),)}


def find_family(model: object) -> ModelFamily:
    """The family of `model`.

    Raises:
        UnsupportedModelError: if `model` is no transformers model, or of a type that no family answers for.
    """
    if not isinstance(model, PreTrainedModel):
        raise UnsupportedModelError(
            f"not a transformers model: got {type(model).__name__}; expected a PreTrainedModel. "
            "Pass the model itself, not a wrapper of it (of a PeftModel, `model.get_base_model()`)."
        )
    model_type = model.config.model_type
    known = {name: family for family in FAMILIES.values() for name in family.model_types}
    if model_type not in known:
        raise UnsupportedModelError(
            f"unknown model type: got {model_type!r} ({type(model).__name__}); expected one of {sorted(known)}. "
            f"{suggestion(model_type, known, 'No name is near.')} Load a checkpoint of a supported "
            "family, or add the family: one file and one line in hooks/families."
        )
    return known[model_type]


__all__ = ["FAMILIES", "ImagePatches", "ModelFamily", "PatchGrid", "find_family"]
