"""What can be chosen by name: methods and model families."""

from __future__ import annotations

from ._hooks import FAMILIES, ModelFamily
from .errors import ConfigError
from .methods import METHODS


def list_methods() -> list[str]:
    """Names that `scr.patch` and `--method` take, in the order of the table."""
    return list(METHODS)


def list_families() -> list[str]:
    """Names of the supported model families."""
    return list(FAMILIES)


def get_family(name: str) -> ModelFamily:
    """The family called `name`.

    Raises:
        ConfigError: for an unknown name.
    """
    if name not in FAMILIES:
        raise ConfigError(f"unknown family: got {name!r}; expected one of {list(FAMILIES)}. Choose one of them.")
    return FAMILIES[name]
