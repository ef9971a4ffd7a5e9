"""Whether a JSON value has the type that a dataclass says its field has. Standard library only."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict


def wrong_field(cls: type, data: Mapping[str, Any]) -> tuple[str, Any, str] | None:
    """The first field whose value is of another type: its name, the value, and what was expected; None for none.

    Args:
        cls: a dataclass, or a dictionary whose names are typed.
        data: field → JSON value; names that are no field are not looked at.
    """
    for name, hint in _hints(cls).items():
        if name in data and not _fits(data[name], hint):
            return name, data[name], str(hint) if get_args(hint) else hint.__name__
    return None


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _fits(value: Any, hint: Any) -> bool:
    kind, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if kind in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if is_typeddict(hint):
        return isinstance(value, dict) and set(value) == set(_hints(hint)) and wrong_field(hint, value) is None
    if kind is dict:
        return isinstance(value, dict) and all(_fits(one, inner[1]) for one in value.values())
    if kind is list:
        return isinstance(value, list) and all(_fits(one, inner[0]) for one in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)
