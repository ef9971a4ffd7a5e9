"""What the fields of a configuration or a record may hold, read from their annotations. No torch.

    @dataclass(frozen=True, kw_only=True)
    class Noise(Fields):
        keep: Annotated[float, Between(0, 1)] = 0.3
        kind: Literal["pixels", "features"] = "pixels"

    >>> Noise.from_dict({"keep": 2})
    FieldError: keep out of range: got 2; expected a finite number ≥ 0 and ≤ 1. Set it within these bounds.

What JSON makes of a tuple, a range or a variant is read back, numpy's and torch's scalars become Python's own, a whole
number serves as a number and stays as it was written, and a bool is no number.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Self,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from ._hooks import suggestion
from .errors import ConfigError

_FLOAT32, _INT64 = 3.4028234e38, 2**63 - 1
_SHOWN = 100  # characters of a value in an error


@dataclass(frozen=True)
class Between:
    """Marks the bounds of a number, which are within; where none is given, those of float32, or of 64 bits.

    Attributes:
        low: the least.
        high: the most.
        above: whether it must be more than `low`.
    """

    low: float = -_FLOAT32
    high: float = _FLOAT32
    above: bool = False


@dataclass(frozen=True)
class That:
    """Marks what else must be true of a value.

    Attributes:
        test: whether it is.
        words: as they end "expected a list of texts, ...".
    """

    test: Callable[[Any], Any]
    words: str


@dataclass(frozen=True)
class ChosenBy:
    """Marks a field that holds an object of a table, and is given as one, as its name, or as name and settings.

    Attributes:
        get: makes it: `get(name, **settings)`.
    """

    get: Callable[..., Any]


SOME = That(bool, "not empty")
LARGEST = 1000.0
"""The most that a factor or a shift may be: far beyond use, and what it is applied to stays a number."""

Share = Annotated[float, Between(0, 1)]
Factor = Annotated[float, Between(0, LARGEST)]
Count = Annotated[int, Between(1)]
Index = Annotated[int, Between(0)]


class FieldError(ConfigError):
    """A field holds what it may not.

    Attributes:
        name: of the field, or what else was wrong.
        got: what it held, as text.
        expected: what it may hold, in words.
    """

    def __init__(self, wrong: str, name: str, got: str, expected: str, todo: str = "Give one.") -> None:
        """Keep the parts, for who says it in other words.

        Args:
            wrong: what was wrong, "{}" in place of the name.
            name: see above.
            got: see above.
            expected: see above.
            todo: what to do.
        """
        super().__init__(wrong, name, got, expected, todo)
        self.name, self.got, self.expected = name, got, expected

    def __str__(self) -> str:
        """The parts as a sentence."""
        wrong, name, got, expected, todo = self.args
        return f"{wrong.replace('{}', name)}: got {got}; expected {expected}. {todo}"


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Base of what checks its fields when it is made, and goes through JSON."""

    if_missing: ClassVar[str] = "Give each a value."
    """What to do where a field without a default is left out."""

    def __post_init__(self) -> None:
        """Check and convert every field by its annotation.

        Raises:
            ConfigError: for a value out of range.
        """
        for name, read in _readers(type(self)).items():
            object.__setattr__(self, name, read(name, getattr(self, name)))

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values; a range becomes `[start, stop]`, a variant its name and settings."""
        return {field.name: _as_json(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; a field that is left out has its default.

        Raises:
            ConfigError: for an unknown or missing field, or a value out of range.
        """
        if not isinstance(values, Mapping):
            raise FieldError("{} of another kind", cls.title(), shown(values), "its fields by their names")
        missing, unknown = wrong_names(cls, values)
        if unknown:
            known = list(_parameters(cls))
            raise FieldError(
                "unknown field of {}", cls.title(), shown(unknown[0]), f"one of {known}", cls.instead(unknown[0], known)
            )
        if missing:
            wanted = f"{missing} too"
            raise FieldError("fields of {} are missing", cls.title(), f"{sorted(values)}", wanted, cls.if_missing)
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
        FieldError: for a value out of range.
    """
    return _kind(hint).read(name, value)


def read_fields(cls: type, data: Mapping[str, Any]) -> dict[str, Any]:
    """The values of any dataclass's fields, checked and converted; names that are no field are left out.

    Raises:
        FieldError: for the first value that does not fit.
    """
    return {name: read(name, data[name]) for name, read in _readers(cls).items() if name in data}


def wrong_names(cls: type, data: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Which fields of a dataclass are missing, and which names are none of its fields, sorted."""
    known = _parameters(cls)
    missing = [name for name, one in known.items() if one.default is one.empty and name not in data]
    return missing, sorted(name for name in data if name not in known)


def shown(value: Any) -> str:
    """A value on a line of an error: cut off where it is long, and a number beyond 64 bits by their count."""
    if isinstance(value, int) and not -_INT64 <= value <= _INT64:
        return f"a number of {value.bit_length()} bits"
    try:
        text = " ".join(repr(value).split("\n"))
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


Read = Callable[[str, Any], Any]
"""Name of a field and its value → the value as it is kept."""


Built = TypeVar("Built", bound=Callable[..., Any])


class _Kind(NamedTuple):
    read: Read
    expected: str


def _cached(function: Built) -> Built:
    """`functools.cache` with the types of the function, for its own take no class of frozen objects."""
    return cast(Built, functools.cache(function))


@_cached
def _parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(cls).parameters


@_cached
def _readers(cls: type) -> dict[str, Read]:
    hints = get_type_hints(cls, include_extras=True)
    names = hints if is_typeddict(cls) else [field.name for field in dataclasses.fields(cls)]
    return {name: _kind(hints[name]).read for name in names}


@_cached
def _kind(hint: Any) -> _Kind:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _marked(inner[0], inner[1])
    if hint is Any:
        return _Kind(lambda name, value: value, "any value")
    if hint in (int, float):
        return _number(hint, Between(-math.inf, math.inf))
    if hint is bool:
        return _choice((True, False))
    if origin is Literal:
        return _choice(inner)
    if origin in (Union, types.UnionType):
        return _either(inner)
    if hint is range:
        return _Kind(_range, "a range of step 1 from 0 up, or [start, stop]")
    if origin in (list, tuple):
        return _list(origin, _kind(inner[0]))
    if origin in (dict, Mapping):
        return _table(*map(_kind, inner))
    if is_typeddict(hint):
        return _table_of(hint)
    return _object(hint)


def _marked(hint: Any, mark: Any) -> _Kind:
    if isinstance(mark, Between):
        return _number(hint, mark)
    if isinstance(mark, ChosenBy):
        return _chosen(hint, mark.get)
    inner = _kind(hint)
    expected = f"{inner.expected}, {mark.words}"

    def read(name: str, value: Any) -> Any:
        if not mark.test(found := inner.read(name, value)):
            raise FieldError("{} of another kind", name, shown(value), expected)
        return found

    return _Kind(read, expected)


def _number(hint: type, bounds: Between) -> _Kind:
    whole = hint is int
    most = _INT64 if whole else sys.float_info.max
    low, high = max(bounds.low, -most - whole), min(bounds.high, most)
    top = f"≤ {high}" if whole else f"≤ {high:g}"
    sides = [f"{'>' if bounds.above else '≥'} {low:g}"] if low > max(-most, -_FLOAT32) else []
    sides += [top] if high < min(most, _FLOAT32) else []
    noun = "an integer" if whole else "a finite number"
    expected = f"{noun} {' and '.join(sides)}".rstrip()

    def read(name: str, value: Any) -> Any:
        value = _plain(value)
        # No tensor takes a whole number of more than 64 bits, whatever it would be as a float.
        fits = (type(value) is float and not whole) or (type(value) is int and -_INT64 - 1 <= value <= _INT64)
        if fits and low <= value <= high and not (bounds.above and value == low):
            return value
        # A bound that is the number format's is news only to who went beyond it.
        beyond = fits and high < value < math.inf and top not in sides
        text = f"{noun} {' and '.join([*sides, top])}" if beyond else expected
        raise FieldError("{} out of range", name, shown(value), text, "Set it within these bounds.")

    return _Kind(read, expected)


def _choice(allowed: tuple[Any, ...]) -> _Kind:
    expected = f"one of {allowed}"

    def read(name: str, value: Any) -> Any:
        value = _plain(value)
        # 1 is not True, nor 8.0 a count.
        if any(type(value) is type(one) and value == one for one in allowed):
            return value
        raise FieldError("unknown {}", name, shown(value), expected, "Choose one of them.")

    return _Kind(read, expected)


def _either(hints: tuple[Any, ...]) -> _Kind:
    kinds = [_kind(one) for one in hints if one is not types.NoneType]
    optional = types.NoneType in hints
    expected = " or ".join([one.expected for one in kinds] + ["None"] * optional)

    def read(name: str, value: Any) -> Any:
        if optional and value is None:
            return None
        errors = []
        for kind in kinds:
            try:
                return kind.read(name, value)
            except FieldError as error:
                errors.append(error)
        # Whichever came as far as a part of the value was the one that was meant.
        deeper = [error for error in errors if error.got != shown(value)]
        raise deeper[0] if deeper else FieldError(errors[-1].args[0], name, shown(value), expected, errors[-1].args[-1])

    return _Kind(read, expected)


def _range(name: str, value: Any) -> range:
    found = value
    if isinstance(value, list | tuple) and len(value) == 2:
        bounds = [_plain(bound) for bound in value]
        found = range(*bounds) if all(type(bound) is int for bound in bounds) else value
    # [start, stop] is how it is kept, and has no place for a step.
    if isinstance(found, range) and found.step == 1 and 0 <= found.start < found.stop <= _INT64:
        return found
    expected = "a range of step 1 from 0 up that is not empty, such as range(0, 12), or [start, stop]"
    raise FieldError("{} is not a range", name, shown(value), expected, "Name the first, and the one after the last.")


def _list(base: type, inner: _Kind) -> _Kind:
    expected = f"a list, each {inner.expected}"

    def read(name: str, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise FieldError("{} of another kind", name, shown(value), expected)
        return base([inner.read(name, one) for one in value])

    return _Kind(read, expected)


def _table(keys: _Kind, values: _Kind) -> _Kind:
    expected = f"a table of names, each {values.expected}"

    def read(name: str, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise FieldError("{} of another kind", name, shown(value), expected)
        return {keys.read(name, key): values.read(f"{name}.{key}", one) for key, one in value.items()}

    return _Kind(read, expected)


def _table_of(hint: Any) -> _Kind:
    readers = _readers(hint)
    expected = f"a table of {', '.join(readers)}"

    def read(name: str, value: Any) -> Any:
        if not isinstance(value, Mapping) or value.keys() != readers.keys():
            raise FieldError("{} of another kind", name, shown(value), expected)
        return {key: read(f"{name}.{key}", value[key]) for key, read in readers.items()}

    return _Kind(read, expected)


def _chosen(hint: type, get: Callable[..., Any]) -> _Kind:
    expected = f"a {hint.__name__}, its name, or its settings with a name"

    def read(name: str, value: Any) -> Any:
        if isinstance(value, hint):
            return value
        if isinstance(value, str):
            return get(value)
        if isinstance(value, Mapping):
            return get(value.get("name"), **{key: one for key, one in value.items() if key != "name"})
        raise FieldError("{} of another kind", name, shown(value), expected)

    return _Kind(read, expected)


def _object(hint: type) -> _Kind:
    expected = "a text" if hint is str else f"a {hint.__name__}"

    def read(name: str, value: Any) -> Any:
        if isinstance(value, hint):
            return value
        if issubclass(hint, Fields) and isinstance(value, Mapping):
            return hint.from_dict(value)
        raise FieldError("{} of another kind", name, shown(value), expected)

    return _Kind(read, expected)


def _plain(value: Any) -> Any:
    """Python's own of a scalar of numpy or torch, all else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _as_json(value: Any) -> Any:
    if isinstance(value, range):
        return [value.start, value.stop]
    if isinstance(value, Fields):
        return value.to_dict()
    return list(value) if isinstance(value, tuple) else value
