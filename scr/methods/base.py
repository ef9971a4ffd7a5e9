"""What a method is: a frozen configuration, and one class that says which of four levers it pulls."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor
from transformers import PreTrainedModel

from .._hooks import HookStack
from ..fields import Fields
from ..variants import Variant
from .trace import Trace
from .wording import named_by_a_paper, one_line

Lever = Literal["activations", "attention", "logits", "loop"]
"""Where a training-free method acts: the residual stream, the attention, the logits, or the decoding loop."""

Calibrate = Callable[..., dict[str, Tensor]]
"""Model, processor, demonstrations, mask, trials, rank → part of the model → vectors; see `scr.steering.shifts`."""


@dataclass(frozen=True, kw_only=True, repr=False)
class MethodConfig(Fields):
    """Base of all configurations: frozen, keyword-only, and stored in every record."""

    symbols: ClassVar[Mapping[str, str]] = {}
    """What papers call the fields: "SCR's λ" → "scale". Whoever gives a field by its symbol is told ours."""
    example: ClassVar[Mapping[str, Any]] = {}
    """Fields by which it shows on any model, small ones too; those without a default among them."""
    takes_settings: ClassVar[bool] = False
    """Whether the settings in a checkpoint's `scr.json` are fields of it."""
    answer_tokens: ClassVar[Mapping[str, Literal["yes", "no"]]] = {}
    """Fields that hold the ids which begin the spellings of an answer: whoever knows the tokenizer can fill them in."""
    phrases: ClassVar[tuple[str, ...]] = ()
    """Fields that hold a text for the model to read, or its ids: whoever knows the tokenizer can put in the ids."""

    later: ClassVar[tuple[str, ...]] = ()
    """Fields that came when runs were recorded already: at its default none is said, so that a run keeps its name."""

    def to_dict(self) -> dict[str, Any]:
        """See `Fields`; without the `later` ones that are at their defaults."""
        unsaid = {name for name in self.later if getattr(self, name) == type(self).__dataclass_fields__[name].default}
        return {name: value for name, value in super().to_dict().items() if name not in unsaid}

    def __repr__(self) -> str:
        """The fields that are not at their defaults, on a line."""
        changed = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.default is dataclasses.MISSING or getattr(self, field.name) != field.default
        }
        return one_line(type(self).__name__, **changed)

    def learnt_on(self) -> frozenset[str]:
        """Digests of the image files that it was learnt from (`scr.adapters.image_file_digest`); of most, none.

        Raises:
            ConfigError: if what it names cannot be read.
        """
        return frozenset()

    def here_only(self) -> tuple[str, ...]:
        """The fields whose values mean something on this machine, or in this process, alone: a callable, a file."""
        return tuple(one.name for one in dataclasses.fields(self) if callable(getattr(self, one.name)))

    def ordered(self) -> dict[str, Variant]:
        """The fields by which answers depend on the order of tokens, or on the batch."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: one for name, one in values.items() if isinstance(one, Variant) and one.unordered}

    @classmethod
    def instead(cls, name: str, known: Iterable[str]) -> str:
        """Our name where a paper's was given, else the nearest."""
        return named_by_a_paper(name, cls.symbols) or super().instead(name, known)


class Method(ABC):
    """A method on one model. Made without touching the model; `install` changes it, the stack changes it back."""

    name: ClassVar[str]
    paper: ClassVar[str]
    requires: ClassVar[tuple[Lever, ...]]
    config_class: ClassVar[type[MethodConfig]]
    least_beams: ClassVar[int] = 1
    """How many beams `generate` needs at least; a method of beams alone, 2 or more, serves no sampling."""
    calibrate: ClassVar[Calibrate | None] = None
    """Makes the vectors that it needs, for `python -m benchmarks.calibrate steering`; None for what needs none."""
    in_any_forward: ClassVar[bool] = False
    """Whether it acts in forwards outside of `generate` too."""

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
