"""What a method is: a frozen configuration, and one class that says which of three levers it pulls."""

from __future__ import annotations

import dataclasses
import inspect
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from transformers import PreTrainedModel

from .._hooks import HookStack, suggestion
from ..errors import ConfigError
from ..variants import Variant, plain_value
from .trace import Trace
from .wording import named_by_a_paper, one_line

Lever = Literal["activations", "logits", "loop"]
"""Where a training-free method acts: the residual stream, the logits, or the decoding loop."""


@dataclass(frozen=True, kw_only=True, repr=False)
class MethodConfig:
    """Base of all configurations: frozen, keyword-only, and stored in every record."""

    symbols: ClassVar[Mapping[str, str]] = {}
    """What papers call the fields: "SCR's λ" → "scale". Whoever gives a field by its symbol is told ours."""
    if_missing: ClassVar[str] = "Give each a value."
    """What to do where a field without a default is left out."""
    example: ClassVar[Mapping[str, Any]] = {}
    """Fields by which it shows on any model, small ones too; those without a default among them."""
    takes_settings: ClassVar[bool] = False
    """Whether the settings in a checkpoint's `scr.json` are fields of it."""
    answer_tokens: ClassVar[Mapping[str, Literal["yes", "no"]]] = {}
    """Fields that hold the ids which begin the spellings of an answer: whoever knows the tokenizer can fill them in."""

    def __repr__(self) -> str:
        """The fields that are not at their defaults, on a line."""
        changed = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.default is dataclasses.MISSING or getattr(self, field.name) != field.default
        }
        return one_line(type(self).__name__, **changed)

    def __new__(cls, *args: Any, **values: Any) -> Self:
        """Refuse numbers that no tensor holds, before a field's own check meets them.

        Raises:
            ConfigError: for a whole number beyond 64 bits.
        """
        for name, value in values.items():
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise ConfigError(
                    f"{name} out of range: got a number of {value.bit_length()} bits; expected one of 64 at most. "
                    "Give a smaller one."
                )
        return super().__new__(cls)

    def ordered(self) -> dict[str, Variant]:
        """The fields by which answers depend on the order of tokens, or on the batch."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: one for name, one in values.items() if isinstance(one, Variant) and one.unordered}

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values; a range becomes `[start, stop]`, a variant its name and settings."""
        return {field.name: _as_json(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; a field that is left out has its default.

        Raises:
            ConfigError: for an unknown field, or a value out of range.
        """
        known = inspect.signature(cls).parameters
        for name in values:
            if name not in known:
                raise ConfigError(
                    f"unknown field of {cls.__name__}: got {name!r}; expected one of {list(known)}. "
                    f"{named_by_a_paper(name, cls.symbols) or suggestion(name, known)}"
                )
        # Annotations are strings here, so a range is told by its name.
        ranges = {field.name for field in dataclasses.fields(cls) if "range" in str(field.type)}
        if missing := [name for name, one in known.items() if one.default is one.empty and name not in values]:
            raise ConfigError(
                f"fields of {cls.__name__} are missing: got {sorted(values)}; expected {missing} too. {cls.if_missing}"
            )
        return cls(**{name: _as_range(name, value) if name in ranges else value for name, value in values.items()})


def _as_json(value: Any) -> Any:
    if isinstance(value, range):
        return [value.start, value.stop]
    if isinstance(value, Variant):
        return value.to_dict()
    return list(value) if isinstance(value, tuple) else value


def _as_range(name: str, value: Any) -> range | None:
    value = plain_value(value)
    if value is None or isinstance(value, range):
        return value
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(type(bound) is int for bound in value):
        return range(*value)
    raise ConfigError(f"{name} is not a range: got {value!r}; expected [start, stop]. Give two integers.")


class Method(ABC):
    """A method on one model. Made without touching the model; `install` changes it, the stack changes it back."""

    name: ClassVar[str]
    paper: ClassVar[str]
    requires: ClassVar[tuple[Lever, ...]]
    config_class: ClassVar[type[MethodConfig]]

    config: MethodConfig
    """The effective configuration: what the model's family decides is filled in."""
    traces: deque[Trace] | None = None
    """What was done to the last images, of a method that can say it; None of others."""

    def diagnosed(self) -> dict[str, range]:
        """The blocks that it looks at, as arguments of `scr.diagnose`; what is left out is the family's."""
        return {}

    @abstractmethod
    def __init__(self, model: PreTrainedModel, config: Any) -> None:
        """Check everything, change nothing.

        Raises:
            UnsupportedModelError: if the method cannot work on this model.
            ConfigError: if the configuration does not fit the model.
        """

    @abstractmethod
    def install(self, model: PreTrainedModel, stack: HookStack) -> None:
        """Put the method on the model; whatever is put on goes on `stack`."""
