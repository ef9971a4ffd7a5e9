"""What a predictor says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from ..fields import Count, Fields
from ..kinds import Between


@dataclass(frozen=True, kw_only=True)
class PredictorCard(Fields):
    """Which models a predictor is for, and how it came about.

    Attributes:
        model_type: `config.model_type` of these models.
        width: of their decoders' hidden states.
        text: whether it reads the mean of the text's states, too.
        spread: deviation of the logarithm of attention over a picture's patches, in which it was taught to speak.
        made_from: model, data and settings of its training.
        report: what it reached on images that it was not trained on.
        format: of the folder.
    """

    if_missing: ClassVar[str] = "Train it again: python -m scr.onepass train."

    model_type: str
    width: Count
    text: bool
    spread: Annotated[float, Between(0, above=True)]
    made_from: Mapping[str, Any] | None = None
    report: Mapping[str, Any] | None = None
    format: Literal[1] = 1
