"""Variants: alternatives that are chosen by name, each a frozen object of its own settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

from ._hooks import suggestion
from .fields import Fields
from .kinds import FieldError, shown


@dataclass(frozen=True, kw_only=True)
class Variant(Fields):
    """Base of all: compares by value, and goes through JSON with its name."""

    name: ClassVar[str]
    unordered: ClassVar[str | None] = None
    """Of a variant whose outcome depends on the order of tokens, or on the batch: which to take where it must not."""

    def to_dict(self) -> dict[str, Any]:
        """The name and the settings as JSON values."""
        return {"name": self.name, **super().to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; a setting that is left out has its default, and the name may be left out.

        Raises:
            ConfigError: for another variant's name, an unknown setting, or a value out of range.
        """
        if isinstance(values, Mapping) and "name" in values:
            if values["name"] != cls.name:
                todo = "Let the table's own function choose the class."
                raise FieldError("settings of another variant", "", shown(values["name"]), repr(cls.name), todo)
            values = {name: value for name, value in values.items() if name != "name"}
        return super().from_dict(values)

    @classmethod
    def title(cls) -> str:
        """What errors call it."""
        return repr(cls.name)


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
        near = suggestion(name, table) if isinstance(name, str) else "Give its name."
        raise FieldError("unknown {}", kind, shown(name), f"one of {list(table)}", near)
    return table[name].from_dict(settings)
