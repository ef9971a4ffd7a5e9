"""VTI (arXiv 2410.15778): steer every MLP, of the decoder and of the vision tower, by vectors learnt beforehand."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from .._hooks import PIXELS, GenerateCall, StepHooks, after_mlp, find_family, rows_with_images, turn
from ..adapters.base import check_base_of
from ..errors import UnsupportedGenerationError
from ..fields import Factor
from ..steering.shifts import visual_textual_vectors
from ..steering.vectors import RANDOM, find_vectors, vectors_of
from .base import Calibrate, MethodConfig
from .steps import StepsMethod

_OF_A_DIRECTION = 0.1


@dataclass(frozen=True, kw_only=True, repr=False)
class VTIConfig(MethodConfig):
    """Which vectors, and how strongly; strengths are the paper's.

    Attributes:
        vectors: file of `python -m benchmarks.calibrate steering --method vti`, with or without "@sha256:" and its
            digest, which records have; or "random", a control: directions drawn at random.
        text: strength in the decoder, in tenths of a state's own direction; 0: nothing, to the bit.
        vision: strength in the vision tower, likewise.
    """

    symbols: ClassVar[Mapping[str, str]] = {"VTI's α_text": "text", "VTI's α_image": "vision"}
    if_missing: ClassVar[str] = (
        "`python -m benchmarks.calibrate steering --method vti --output vti.safetensors` makes the file of vectors."
    )
    example: ClassVar[Mapping[str, Any]] = {"vectors": RANDOM, "text": 6.0, "vision": 0.0}

    vectors: str
    text: Factor = 0.9
    vision: Factor = 0.9

    def here_only(self) -> tuple[str, ...]:
        """See `MethodConfig`: a file of vectors."""
        return (*super().here_only(), *(() if self.vectors == RANDOM else ("vectors",)))

    def learnt_on(self) -> frozenset[str]:
        """See `MethodConfig`."""
        found = find_vectors(self.vectors, VTI.name)
        return frozenset() if found is None else frozenset(found.card.images)


class VTI(StepsMethod):
    """`x ← normalise(x̂ + strength/10 · v̂) · ‖x‖` for what each block's MLP puts out, of every token and patch.

    In the decoder v points from captions with an object that is not there to true ones: the first principal direction
    of the differences of their last tokens' states. In the vision tower it points from pictures to the mean of copies
    that lack 99 % of their squares.

    Differs from the public code: there each patch has a vector, here each block of the tower has their mean, as
    pictures of other sizes have other patches; there false captions are written by a language model, here an object's
    name is replaced by that of an absent one; and rows without an image are left alone.
    """

    name: ClassVar[str] = "vti"
    paper: ClassVar[str] = "arXiv 2410.15778"
    config_class: ClassVar[type[MethodConfig]] = VTIConfig
    calibrate: ClassVar[Calibrate | None] = staticmethod(visual_textual_vectors)

    config: VTIConfig

    def __init__(self, model: PreTrainedModel, config: VTIConfig) -> None:
        """See `Method`."""
        super().__init__(model, config)
        family, found = find_family(model), find_vectors(config.vectors, self.name)
        if found is not None:
            check_base_of(model, found)
            self.config = replace(config, vectors=found.recorded)
        self._blocks = [family.mlp(block) for block in family.layers(model)] if config.text else []
        self._tower = [family.mlp(block) for block in family.vision_layers(model)] if config.vision else []
        if self._blocks:
            width = model.config.get_text_config().hidden_size
            self._text = vectors_of(found, "text", len(self._blocks), width)
        if self._tower:
            width = next(one.in_features for one in cast(Any, self._tower[0]).modules() if hasattr(one, "in_features"))
            self._vision = vectors_of(found, "vision", len(self._tower), width)

    def place(self, model: PreTrainedModel, hooks: StepHooks) -> None:
        """See `StepsMethod`."""
        for block in range(len(self._blocks)):
            vector, strength = self._text[block], _OF_A_DIRECTION * self.config.text
            after_mlp(hooks, model, block, functools.partial(_steer_rows, vector=vector, strength=strength))
        for block, mlp in enumerate(self._tower):
            vector, strength = self._vision[block], _OF_A_DIRECTION * self.config.vision
            hooks.while_encoding(mlp, functools.partial(_steer, vector=vector, strength=strength))

    def start(self, call: GenerateCall) -> Any:
        """See `StepsMethod`."""
        if self._tower and all(call.arguments.get(name) is None for name in PIXELS.values()):
            raise UnsupportedGenerationError(
                "vti steers the vision tower, which is not to run: got encoded images; expected pixels. Put vti before "
                "what encodes them, as in 'vti+purified', or set vision=0."
            )
        return rows_with_images(call.model, call.model_inputs)


def _steer(kept: Any, answer: Float[Tensor, "*patches dim"], *, vector: Tensor, strength: float) -> Tensor:
    return turn(answer, vector.to(answer.device), strength)


def _steer_rows(
    with_image: Tensor, answer: Float[Tensor, "rows seq dim"], *, vector: Tensor, strength: float
) -> Tensor:
    rows = with_image.to(answer.device).repeat_interleave(len(answer) // len(with_image))[:, None, None]
    return torch.where(rows, _steer(None, answer, vector=vector, strength=strength).to(answer.dtype), answer)
