"""Variants: alternatives that are chosen by name, each a frozen object of its own settings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

from ._hooks import suggestion
from .errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Base of all: compares by value, and goes through JSON with its name."""

    name: ClassVar[str]
    unordered: ClassVar[str | None] = None
    """Of a variant whose outcome depends on the order of tokens, or on the batch: which to take where it must not."""

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


def take_plain_values(owner: Any) -> None:
    """Put Python's own numbers where a frozen object's fields hold numpy's or torch's: JSON knows no others.

    Args:
        owner: a dataclass object in its `__post_init__`.
    """
    for field in dataclasses.fields(owner):
        object.__setattr__(owner, field.name, plain_value(getattr(owner, field.name)))


def plain_value(value: Any) -> Any:
    """Python's own of a scalar of numpy or torch, also in a list or tuple; all else as it is."""
    if type(value) in (list, tuple):
        return type(value)(map(plain_value, value))
    return value.item() if getattr(value, "ndim", None) == 0 else value


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


LARGEST = 1000.0
"""The most that a factor or a shift may be: far beyond use, and what it is applied to stays a number."""
_FLOAT32, _INT64 = 3.4028234e38, 2**63 - 1


def check_number(name: str, value: Any, low: float = 0.0, high: float = math.inf, exclusive: bool = False) -> None:
    """Raise ConfigError unless `value` is a number of float32 in [low, high], or above `low` if `exclusive`."""
    low, high = max(low, -_FLOAT32), min(high, _FLOAT32)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not low <= value <= high or (exclusive and value == low):
        above = is_number and high < value < math.inf
        bounds = f"{'>' if exclusive else '≥'} {low:g}" + (f" and ≤ {high:g}" if above or high < _FLOAT32 else "")
        raise ConfigError(
            f"{name} out of range: got {value!r}; expected a finite number {bounds}. Set it within these bounds."
        )


def check_integer(name: str, value: Any, low: int = 0, high: int = _INT64) -> None:
    """Raise ConfigError unless `value` is an integer of 64 bits in [low, high]."""
    is_integer = type(value) is int
    if not is_integer or not low <= value <= high:
        bounds = f"≥ {low}" + (f" and ≤ {high}" if high < _INT64 or (is_integer and value > high) else "")
        raise ConfigError(
            f"{name} out of range: got {value!r}; expected an integer {bounds}. Set it within these bounds."
        )


def check_choice(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Raise ConfigError unless `value` is one of `allowed`, of the same type: 1 is not True, nor 8.0 a count."""
    if not any(type(value) is type(one) and value == one for one in allowed):
        raise ConfigError(f"unknown {name}: got {value!r}; expected one of {tuple(allowed)}. Choose one of them.")
