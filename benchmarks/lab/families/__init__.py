"""The families that the lab trains models of: one file each, and one line here."""

from __future__ import annotations

from .base import LabFamily, ModelSize
from .internvl import InternVL
from .llava import Llava
from .qwen2_vl import Qwen2VL

__all__ = ["FAMILIES", "LabFamily", "ModelSize", "build_family"]

# Name of a family → its class.                                               ← the only line to add for a new family
FAMILIES: dict[str, type[LabFamily]] = {"llava": Llava, "qwen2_vl": Qwen2VL, "internvl": InternVL}


def build_family(name: str, size: ModelSize) -> LabFamily:
    """Return a family at the sizes of a recipe.

    Raises:
        ValueError: If there is no family of that name.
    """
    if name not in FAMILIES:
        raise ValueError(f"unknown family: got {name!r}; expected one of {', '.join(FAMILIES)}. Choose one of these.")
    return FAMILIES[name](size)
