"""One-pass SCR: a small network predicts the attention map from layer-0 states, and no diagnostic pass runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from .._hooks import ImagePatches
from ..checkpoints.named import named_folder
from ..fields import SOME
from ..onepass.predictor import image_inputs
from ..onepass.storing import UNTRAINED, load_predictor
from .base import MethodConfig
from .spreading import SpreadingConfig, SpreadingMethod, SpreadingSession


@dataclass(frozen=True, kw_only=True, repr=False)
class OnePassConfig(SpreadingConfig):
    """How to redistribute by a map that is predicted.

    Attributes:
        predictor: a folder that `python -m scr.onepass train` wrote, a name that a package brings such as `lab/llava`,
            or `"untrained"`: random weights, for what the method costs and as a control.
    """

    if_missing: ClassVar[str] = "`python -m scr.onepass train` makes the folder of a predictor."
    example: ClassVar[Mapping[str, Any]] = {"scale": 1.6, "num_sources": 4, "predictor": UNTRAINED}
    takes_settings: ClassVar[bool] = True

    predictor: Annotated[str, SOME]

    def here_only(self) -> tuple[str, ...]:
        """See `MethodConfig`: a folder that no package brings."""
        anywhere = self.predictor == UNTRAINED or named_folder("predictor", self.predictor) is not None
        return (*super().here_only(), *(() if anywhere else ("predictor",)))


class OnePassSCR(SpreadingMethod):
    """SCR's sources, neighbours and edits, by a predicted map (the paper's one-pass variant; see `Predictor`).

    The paper gives a two-layer network of hidden width 256 and about 120 K parameters on layer-0 states, trained on the
    maps of two-pass SCR; all else is a decision of `scr.onepass`. An image that no text comes after is left alone, as
    by SCR. Traces have the predicted map, and no `norm_ratio`, since no unedited pass is there to compare with.
    """

    name: ClassVar[str] = "scr_one_pass"
    config_class: ClassVar[type[MethodConfig]] = OnePassConfig

    config: OnePassConfig

    def __init__(self, model: PreTrainedModel, config: OnePassConfig) -> None:
        """See `Method`; reads the predictor."""
        super().__init__(model, config)
        self._predictor = load_predictor(config.predictor, model)

    def open(
        self,
        images: Sequence[ImagePatches],
        embeds: Float[Tensor, "batch seq dim"],
        copies: int,
        digests: Callable[[], Mapping[tuple[int, int], str]],
    ) -> SpreadingSession:
        """Predict, and spread by it. See `hooks.PrefillMethod`."""
        session = SpreadingSession(self, images, self.generators(images, digests), copies, self.layers[-1])
        began = time.perf_counter()
        predictor = self._predictor.to(embeds.device)
        # Plans outlive the user's inference mode, in traces.
        with torch.inference_mode(False), torch.no_grad():
            maps = predictor.predict([image_inputs(predictor, image, embeds[image.row]) for image in images])
            seen = [one if len(image.text) else torch.zeros_like(one) for one, image in zip(maps, images, strict=True)]
            session.spread(seen, 1000 * (time.perf_counter() - began))
        return session
