"""Variants: alternatives that are chosen by name, each a frozen object of its own settings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

from ._hooks import suggestion
from .errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Base of all: compares by value, and goes through JSON with its name."""

    name: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """The name and the settings as JSON values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            "name": self.name,
            **{name: list(value) if isinstance(value, tuple) else value for name, value in values.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; a setting that is left out has its default, and the name may be left out.

        Raises:
            ConfigError: for another variant's name, an unknown setting, or a value out of range.
        """
        given = dict(values)
        if given.pop("name", cls.name) != cls.name:
            raise ConfigError(
                f"settings of another variant: got {values['name']!r}; expected {cls.name!r}. "
                "Let the table's own function choose the class."
            )
        known = [field.name for field in dataclasses.fields(cls)]
        for name in given:
            if name not in known:
                raise ConfigError(
                    f"unknown setting of {cls.name!r}: got {name!r}; expected one of {known}. {suggestion(name, known)}"
                )
        required = [field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING]
        if missing := [name for name in required if name not in given]:
            raise ConfigError(
                f"settings of {cls.name!r} are missing: got {sorted(given)}; expected {missing} too. Give each a value."
            )
        return cls(**given)


Chosen = TypeVar("Chosen", bound=Variant)


def choose(table: Mapping[str, type[Chosen]], kind: str, name: str, settings: Mapping[str, Any]) -> Chosen:
    """The variant called `name` with the settings given.

    Args:
        table: name → class.
        kind: what these are, for the error.
        name: which.
        settings: fields to set.

    Raises:
        ConfigError: for an unknown name or setting, or a value out of range.
    """
    if not isinstance(name, str) or name not in table:
        raise ConfigError(
            f"unknown {kind}: got {name!r}; expected one of {list(table)}. {suggestion(str(name), table)}"
        )
    return table[name].from_dict(settings)


def check_number(name: str, value: Any, low: float = 0.0, high: float = math.inf, exclusive: bool = False) -> None:
    """Raise ConfigError unless `value` is a finite number in [low, high], or above `low` if `exclusive`."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value > high or value < low or (exclusive and value == low):
        bounds = f"{'>' if exclusive else '≥'} {low:g}" + (f" and ≤ {high:g}" if high < math.inf else "")
        raise ConfigError(
            f"{name} out of range: got {value!r}; expected a finite number {bounds}. Set it within these bounds."
        )


def check_integer(name: str, value: Any, low: int = 0, high: int | None = None) -> None:
    """Raise ConfigError unless `value` is an integer in [low, high]."""
    if type(value) is not int or value < low or (high is not None and value > high):
        bounds = f"≥ {low}" + ("" if high is None else f" and ≤ {high}")
        raise ConfigError(
            f"{name} out of range: got {value!r}; expected an integer {bounds}. Set it within these bounds."
        )
