"""Objects that check their fields by the annotations, and go through JSON. No torch.

@dataclass(frozen=True, kw_only=True)
class Noise(Fields):
keep: Annotated[float, Between(0, 1)] = 0.3
acts_on: Literal["pixels", "features"] = "pixels"

>>> Noise.from_dict({"keep": 2})
FieldError: keep out of range: got 2; expected a finite number ≥ 0 and ≤ 1. Set it within these bounds.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from ._hooks import suggestion
from .kinds import Between, FieldError, That, cached, kind_of, kinds_of, shown

SOME = That(bool, "not empty")
LARGEST = 1000.0
"""The most that a factor or a shift may be: far beyond use, and what it is applied to stays a number."""

Number = Annotated[float, Between()]
Share = Annotated[float, Between(0, 1)]
Factor = Annotated[float, Between(0, LARGEST)]
Count = Annotated[int, Between(1)]
Index = Annotated[int, Between(0)]


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Base of what checks its fields when it is made."""

    if_missing: ClassVar[str] = "Give each a value."
    """What to do where a field without a default is left out."""

    def __post_init__(self) -> None:
        """Check and convert every field by its annotation.

        Raises:
            ConfigError: for a value that does not fit.
        """
        for name, kind in kinds_of(type(self)).items():
            object.__setattr__(self, name, kind.read(name, getattr(self, name)))

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values; a range becomes `[start, stop]`, an object of fields its own, by name."""
        return {field.name: _as_json(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; a field that is left out has its default.

        Raises:
            ConfigError: for an unknown or missing field, or a value that does not fit.
        """
        if not isinstance(values, Mapping):
            raise FieldError("{} of another kind", cls.title(), shown(values), "its fields by name", "Give a table.")
        missing, unknown = wrong_names(cls, values)
        for name in unknown:
            known = list(_parameters(cls))
            todo = cls.instead(name, known)
            raise FieldError("unknown field of {}", cls.title(), shown(name), f"one of {known}", todo)
        if missing:
            got, wanted = f"{sorted(values)}", f"{missing} too"
            raise FieldError("fields of {} are missing", cls.title(), got, wanted, cls.if_missing)
        return cls(**values)

    @classmethod
    def title(cls) -> str:
        """What errors call it."""
        return cls.__name__

    @classmethod
    def instead(cls, name: str, known: Iterable[str]) -> str:
        """What errors say about a name that is no field."""
        return suggestion(name, known)


def checked(name: str, value: Any, hint: Any) -> Any:
    """A single value, checked and converted as a field called `name` with this annotation.

    Raises:
        FieldError: where it does not fit.
    """
    return kind_of(hint).read(name, value)


def read_fields(cls: type, data: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a dataclass's fields, checked and converted; names that are no field are left out.

    Raises:
        FieldError: for the first that does not fit.
    """
    return {name: kind.read(name, data[name]) for name, kind in kinds_of(cls).items() if name in data}


def wrong_names(cls: type, data: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Which fields of a dataclass are missing, and which names are none of its fields."""
    known = _parameters(cls)
    missing = [name for name, one in known.items() if one.default is one.empty and name not in data]
    return missing, sorted(name for name in data if name not in known)


@cached
def _parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(cls).parameters


def _as_json(value: Any) -> Any:
    if isinstance(value, range):
        return [value.start, value.stop]
    if isinstance(value, Fields):
        return value.to_dict()
    return [_as_json(one) for one in value] if isinstance(value, tuple) else value
