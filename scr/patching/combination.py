"""What names of methods and their fields mean: the parts of "scr+purified", none of "none", the fields of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._hooks import suggestion
from ..errors import ConfigError
from ..methods import METHODS, MethodConfig, get_method
from .baseline import BASELINE


def method_parts(method: str) -> tuple[str, ...]:
    """The rows of the table that a method is made of: none of "none", two of "scr+noise_control"; case does not matter.

    Raises:
        ConfigError: for an unknown name, with the nearest known one; for a part that is there twice, or "none".
    """
    if not isinstance(method, str):
        raise ConfigError(
            f"a method that is no name: got {method!r}; expected one of {', '.join([BASELINE, *METHODS])}. "
            "Give its name as a string, or a configuration of it."
        )
    parts = method.lower().split("+")
    if parts == [BASELINE]:
        return ()
    for part in parts:
        if part == BASELINE:
            raise ConfigError(
                f"baseline in a combination: got {method!r}; expected methods between the '+', of {list(METHODS)}. "
                "Leave 'none' out: it is the model as it is."
            )
        if part not in METHODS:
            got, names = f"{part!r} in {method!r}", list(METHODS)
            if len(parts) == 1:
                got, names = repr(method), [BASELINE, *METHODS]
            raise ConfigError(
                f"unknown method: got {got}; expected one of {', '.join(names)}. {suggestion(part, names)}"
            )
    if len(set(parts)) < len(parts):
        raise ConfigError(
            f"a method twice in a combination: got {method!r}; expected each at most once. Leave the second out."
        )
    return tuple(parts)


def fields_by_part(parts: Sequence[str], fields: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Part → the fields that are set of it; one that is set of this part alone wins over one of all parts.

    Args:
        parts: as `method_parts` returns them.
        fields: "FIELD" of all parts, "NAME.FIELD" of one alone.

    Raises:
        ConfigError: for fields without a part, or of another part.
    """
    if fields and not parts:
        raise ConfigError(
            f"settings without a method: got {sorted(fields)} with method 'none'; expected none. "
            "Name the method they belong to."
        )
    of_all: dict[str, Any] = {}
    own: dict[str, dict[str, Any]] = {part: {} for part in parts}
    for key, value in fields.items():
        owner, dot, name = key.partition(".")
        if not dot:
            of_all[key] = value
        elif owner.lower() in own:
            own[owner.lower()][name] = value
        else:
            raise ConfigError(
                f"setting of a method that is not run: got {key!r}; expected FIELD or NAME.FIELD with NAME one of "
                f"{', '.join(parts)}. {suggestion(owner, parts, 'Name one of these, or add the method.')}"
            )
    return {part: {**of_all, **own[part]} for part in parts}


def check_beams(parts: Sequence[str], generation: Mapping[str, Any]) -> None:
    """Refuse a way of generating with fewer beams than a method needs.

    Args:
        parts: as `method_parts` returns them.
        generation: arguments of `generate`.

    Raises:
        ConfigError: naming the first.
    """
    beams = generation.get("num_beams") or 1
    for part in parts:
        if beams < (least := get_method(part).least_beams):
            raise ConfigError(
                f"{part} searches with beams: got num_beams={beams}; expected at least {least}. "
                "`--gen-kwarg num_beams=5` has them."
            )


@dataclass(frozen=True, kw_only=True, repr=False)
class CombinedConfig(MethodConfig):
    """The configurations of a combination, one by one; those of "none" are none.

    Attributes:
        parts: part → its configuration, in the order of nesting.
    """

    parts: Mapping[str, MethodConfig]

    def to_dict(self) -> dict[str, Any]:
        """Part → its fields as JSON values, as records hold it."""
        return {name: config.to_dict() for name, config in self.parts.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CombinedConfig:
        """The inverse of `to_dict`.

        Raises:
            ConfigError: for an unknown part or field, or a value out of range.
        """
        return cls(parts={name: get_method(name).configure(fields) for name, fields in values.items()})
