"""What an annotation lets a field hold, and how what JSON or a user makes of it is read. No torch.

Whole numbers serve as numbers and stay as they were written, a bool is no number, numpy's and torch's scalars become
Python's own, lists become tuples where the annotation says so, and [start, stop] a range.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints, is_typeddict

from .errors import ConfigError

_FLOAT32, _INT64 = 3.4028234e38, 2**63 - 1
_SHOWN = 100  # characters of a value in an error
_UNFIT = object()


@dataclass(frozen=True)
class Between:
    """Marks the bounds of a number, which are within, but for `low` where `above`; else they are its format's."""

    low: float = -_FLOAT32
    high: float = _FLOAT32
    above: bool = False


@dataclass(frozen=True)
class That:
    """Marks what else must be true of a value; the words end "expected a list, each a text, ..."."""

    test: Callable[[Any], Any]
    words: str


@dataclass(frozen=True)
class ChosenBy:
    """Marks an object of a table, given as one, by name, or by name and settings: `get(name, **settings)`."""

    get: Callable[..., Any]


class FieldError(ConfigError):
    """A field holds what it may not; its parts, for who says it in other words.

    Attributes:
        name: of the field.
        got: what it held, as text.
        expected: what it may hold.
    """

    def __init__(self, wrong: str, name: str, got: str, expected: str, todo: str) -> None:
        """Keep the parts; "{}" in what was wrong stands for the name."""
        super().__init__(wrong, name, got, expected, todo)
        self.name, self.got, self.expected = name, got, expected

    def __str__(self) -> str:
        """The parts as a sentence."""
        wrong, name, got, expected, todo = self.args
        return f"{wrong.replace('{}', name)}: got {got}; expected {expected}. {todo}"


@dataclass(frozen=True)
class Kind:
    """What fits an annotation.

    Attributes:
        expected: what does, in words.
        convert: name and value → the value as it is kept, or `_UNFIT`.
        wrong: what is wrong with all else, "{}" for the name.
        todo: what to do about it.
    """

    expected: str
    convert: Callable[[str, Any], Any]
    wrong: str = "{} of another kind"
    todo: str = "Give one."

    def read(self, name: str, value: Any) -> Any:
        """The value as it is kept.

        Raises:
            FieldError: where it does not fit.
        """
        found = self.convert(name, value)
        if found is _UNFIT:
            raise FieldError(self.wrong, name, shown(value), self.expected, self.todo)
        return found


def shown(value: Any) -> str:
    """A value on a line of an error: cut off where it is long, and a number beyond 64 bits by their count."""
    if isinstance(value, int) and not -_INT64 <= value <= _INT64:
        return f"a number of {value.bit_length()} bits"
    try:
        text = " ".join(repr(value).split("\n"))
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


Built = TypeVar("Built", bound=Callable[..., Any])


def cached(function: Built) -> Built:
    """`functools.cache` with the function's types; its own take no class of frozen objects."""
    return cast(Built, functools.cache(function))


@cached
def kinds_of(cls: type) -> dict[str, Kind]:
    """What each field of a dataclass, or name of a typed dictionary, may hold."""
    hints = get_type_hints(cls, include_extras=True)
    names = hints if is_typeddict(cls) else [field.name for field in dataclasses.fields(cls)]
    return {name: kind_of(hints[name]) for name in names}


@cached
def kind_of(hint: Any) -> Kind:
    """What an annotation lets a value be."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _marked(*inner)
    if hint is Any:
        return Kind("any value", lambda name, value: value)
    if hint in (int, float):
        return _number(hint, Between(-math.inf, math.inf))
    if hint is bool:
        return _choice((True, False))
    if origin is Literal:
        return _choice(inner)
    if origin in (Union, types.UnionType):
        return _either(inner)
    if hint is range:
        expected = "a range of step 1 from 0 up that is not empty, such as range(0, 12), or [start, stop]"
        return Kind(expected, _range, "{} is not a range", "Name the first, and the one after the last.")
    if origin in (list, tuple):
        return _list(origin, kind_of(inner[0]))
    if origin in (dict, Mapping):
        return _table(*map(kind_of, inner))
    return _typed_table(hint) if is_typeddict(hint) else _object(hint)


def _marked(hint: Any, mark: Any) -> Kind:
    if isinstance(mark, Between):
        return _number(hint, mark)
    if isinstance(mark, ChosenBy):
        return _chosen(hint, mark.get)
    kind = kind_of(hint)

    def convert(name: str, value: Any) -> Any:
        found = kind.read(name, value)
        return found if mark.test(found) else _UNFIT

    return Kind(f"{kind.expected}, {mark.words}", convert)


def _number(hint: type, bounds: Between) -> Kind:
    whole = hint is int
    most = _INT64 if whole else sys.float_info.max
    low, high = max(bounds.low, -most - whole), min(bounds.high, most)
    sides = [f"{'>' if bounds.above else '≥'} {low:g}"] if low > max(-most, -_FLOAT32) else []
    sides += [f"≤ {high}" if whole else f"≤ {high:g}"] if high < min(most, _FLOAT32) else []
    sides += [] if whole or high != _FLOAT32 else ["of float32"]

    def convert(name: str, value: Any) -> Any:
        value = _plain(value)
        # No tensor takes a whole number of more than 64 bits, whatever it would be as a float.
        fits = (type(value) is float and not whole) or (type(value) is int and -_INT64 - 1 <= value <= _INT64)
        return value if fits and low <= value <= high and not (bounds.above and value == low) else _UNFIT

    expected = f"{'an integer' if whole else 'a finite number'} {' and '.join(sides)}".rstrip()
    return Kind(expected, convert, "{} out of range", "Set it within these bounds.")


def _choice(allowed: tuple[Any, ...]) -> Kind:
    def convert(name: str, value: Any) -> Any:
        value = _plain(value)
        # 1 is not True, nor 8.0 a count.
        return value if any(type(value) is type(one) and value == one for one in allowed) else _UNFIT

    return Kind(f"one of {allowed}", convert, "unknown {}", "Choose one of them.")


def _either(hints: tuple[Any, ...]) -> Kind:
    kinds = [kind_of(one) for one in hints if one is not types.NoneType]
    optional = types.NoneType in hints

    def convert(name: str, value: Any) -> Any:
        if optional and value is None:
            return None
        errors = []
        for kind in kinds:
            try:
                return kind.read(name, value)
            except FieldError as error:
                errors.append(error)
        # Whichever came as far as a part of the value was the one that was meant.
        for deeper in errors:
            if deeper.got != shown(value):
                raise deeper
        return _UNFIT

    expected = " or ".join([one.expected for one in kinds] + ["None"] * optional)
    return Kind(expected, convert, kinds[-1].wrong, kinds[-1].todo)


def _range(name: str, value: Any) -> Any:
    if isinstance(value, list | tuple) and len(value) == 2:
        bounds = [_plain(bound) for bound in value]
        value = range(*bounds) if all(type(bound) is int for bound in bounds) else value
    # [start, stop] is how it is kept, and has no place for a step.
    fits = isinstance(value, range) and value.step == 1 and 0 <= value.start < value.stop <= _INT64
    return value if fits else _UNFIT


def _list(base: type, inner: Kind) -> Kind:
    def convert(name: str, value: Any) -> Any:
        return base([inner.read(name, one) for one in value]) if isinstance(value, list | tuple) else _UNFIT

    return Kind(f"a list, each {inner.expected}", convert)


def _table(keys: Kind, values: Kind) -> Kind:
    def convert(name: str, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return _UNFIT
        return {keys.read(name, key): values.read(f"{name}.{key}", one) for key, one in value.items()}

    return Kind(f"a table of names, each {values.expected}", convert)


def _typed_table(hint: type) -> Kind:
    kinds = kinds_of(hint)

    def convert(name: str, value: Any) -> Any:
        if not isinstance(value, Mapping) or value.keys() != kinds.keys():
            return _UNFIT
        return {key: kind.read(f"{name}.{key}", value[key]) for key, kind in kinds.items()}

    return Kind(f"a table of {', '.join(kinds)}", convert)


def _chosen(hint: type, get: Callable[..., Any]) -> Kind:
    def convert(name: str, value: Any) -> Any:
        if isinstance(value, str):
            return get(value)
        if isinstance(value, Mapping):
            return get(value.get("name"), **{key: one for key, one in value.items() if key != "name"})
        return value if isinstance(value, hint) else _UNFIT

    return Kind(f"a {hint.__name__}, its name, or its settings with a name", convert)


def _object(hint: Any) -> Kind:
    def convert(name: str, value: Any) -> Any:
        if isinstance(value, Mapping) and hasattr(hint, "from_dict"):
            return hint.from_dict(value)
        return value if isinstance(value, hint) else _UNFIT

    return Kind("a text" if hint is str else f"a {hint.__name__}", convert)


def _plain(value: Any) -> Any:
    return value.item() if getattr(value, "ndim", None) == 0 else value
