"""What can be chosen by name: methods and model families."""

from __future__ import annotations

from transformers import PreTrainedConfig

from .._hooks import FAMILIES, ModelFamily
from ..errors import ConfigError, suggestion
from ..methods import METHODS


def list_methods() -> list[str]:
    """Names that `scr.patch` and `--method` take, in the order of the table."""
    return list(METHODS)


def list_families() -> list[str]:
    """Names of the supported model families."""
    return list(FAMILIES)


def family_of(config: PreTrainedConfig) -> ModelFamily | None:
    """The family of models with this configuration; None if none answers for it."""
    return next((family for family in FAMILIES.values() if config.model_type in family.model_types), None)


def get_family(name: str) -> ModelFamily:
    """The family called `name`.

    Raises:
        ConfigError: for an unknown name.
    """
    if name not in FAMILIES:
        known = list(FAMILIES)
        raise ConfigError(f"unknown family: got {name!r}; expected one of {known}. {suggestion(str(name), known)}")
    return FAMILIES[name]
