"""A control: a constant on the logits of "no". It moves the threshold of yes/no answers, and sees nothing better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from .._hooks import GenerateCall
from ..errors import ConfigError
from ..fields import LARGEST, SOME, Index
from ..kinds import Between
from .base import MethodConfig
from .logits import ImageRowsProcessor, LogitsMethod


@dataclass(frozen=True, kw_only=True, repr=False)
class YesShiftConfig(MethodConfig):
    """How far, and on which tokens.

    Attributes:
        shift: from −1000 to 1000, added to the logits of the tokens, at the first new token alone; above 0 makes "no"
            likelier. The benchmarks choose it on validation, to match the yes ratio of a method.
        no_tokens: ids that begin the spellings of "no"; the benchmarks take them from the tokenizer.
    """

    if_missing: ClassVar[str] = (
        "`python -m benchmarks.calibrate yes-shift --method METHOD` finds the shift that matches a method's yes ratio; "
        'no_tokens are the ids that begin "No", "no" and their like in the tokenizer.'
    )
    example: ClassVar[Mapping[str, Any]] = {"shift": 6.0, "no_tokens": (3,)}
    answer_tokens: ClassVar[Mapping[str, Literal["yes", "no"]]] = {"no_tokens": "no"}

    shift: Annotated[float, Between(-LARGEST, LARGEST)]
    no_tokens: Annotated[tuple[Index, ...], SOME]

    def __post_init__(self) -> None:
        """Raise ConfigError for a value out of range."""
        super().__post_init__()
        object.__setattr__(self, "no_tokens", tuple(dict.fromkeys(self.no_tokens)))


class YesShift(LogitsMethod):
    """Shift the answer's first token towards or away from "no"."""

    name: ClassVar[str] = "yes_shift"
    paper: ClassVar[str] = "–"
    config_class: ClassVar[type[MethodConfig]] = YesShiftConfig

    config: YesShiftConfig

    def begin(self, call: GenerateCall) -> LogitsProcessor:
        """See `LogitsMethod`."""
        return _Shift(call.model, call.model_inputs, self.config)


class _Shift(ImageRowsProcessor):
    def __init__(self, model: Any, inputs: dict[str, Any], config: YesShiftConfig) -> None:
        super().__init__(model, inputs)
        self._config, self._prompt_end = config, -1

    def change(
        self, input_ids: Int[Tensor, "rows length"], scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        self._prompt_end = input_ids.shape[1] if self._prompt_end < 0 else self._prompt_end
        shifted = scores.float()
        if input_ids.shape[1] > self._prompt_end:
            return shifted
        tokens = torch.tensor(self._config.no_tokens, device=scores.device)
        if tokens.max() >= scores.shape[1]:
            raise ConfigError(
                f"no_tokens leave the vocabulary: got {self._config.no_tokens}; expected ids below {scores.shape[1]}. "
                "Take them from the model's own tokenizer."
            )
        return shifted.index_add(1, tokens, shifted.new_full((len(shifted), len(tokens)), self._config.shift))
