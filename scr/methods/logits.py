"""What methods that act in `generate` have in common: a processor for each call of a prompt with images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel

from .._hooks import (
    GenerateCall,
    HookStack,
    blocks_seen,
    current_calls,
    find_family,
    refuse_assistance,
    require_seen,
    rows_with_images,
    visual_input,
    watch_generate,
)
from ..errors import NotFiniteError, UnsupportedModelError
from .base import Lever, Method, MethodConfig


class ImageRowsProcessor(LogitsProcessor):
    """Changes the scores of prompts that have an image; a row of text alone gets the scores that came."""

    def __init__(self, model: Any, inputs: Mapping[str, Any]) -> None:
        """Find those rows; `inputs` are what the processor returned for this one call of `generate`."""
        self._with_image = rows_with_images(model, inputs)

    @abstractmethod
    def change(
        self, input_ids: Int[Tensor, "rows length"], scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        """The new scores of all rows, as float32; each row must keep at least one token."""

    def __call__(
        self, input_ids: Int[Tensor, "rows length"], scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        """The scores of one step, logits or log-probabilities; called by `generate`.

        Raises:
            NotFiniteError: if there is NaN among them, of which no token could be chosen.
        """
        _require_numbers(scores)
        changed, precise = self.change(input_ids, scores), scores.float()
        # Beam search adds up what it gets over the steps: so the scores keep the sum that they came with.
        changed = changed + (precise.logsumexp(dim=-1, keepdim=True) - changed.logsumexp(dim=-1, keepdim=True))
        rows = self._with_image.to(scores.device).repeat_interleave(len(scores) // len(self._with_image))
        return torch.where(rows[:, None], changed, precise).to(scores.dtype)


class FiniteScores(LogitsProcessor):
    """Leaves the scores as they are, and refuses those of which no token could be chosen."""

    def __call__(
        self, input_ids: Int[Tensor, "rows length"], scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        """The scores.

        Raises:
            NotFiniteError: if there is NaN among them.
        """
        _require_numbers(scores)
        return scores


def _require_numbers(scores: Float[Tensor, "rows vocab"]) -> None:
    if scores.isnan().any():
        raise NotFiniteError(
            f"logits of row {int(scores.isnan().any(dim=-1).int().argmax())} are not finite: got NaN; expected "
            "numbers. Look for NaN in the prompt's pixels and in the model's weights, or load the model in a wider "
            "number format."
        )


class AttentionSeen(LogitsProcessor):
    """Leaves the scores as they are, and sees to it that each step's attention has gone by the call's plans."""

    def __init__(self) -> None:
        """For one call of `generate`, on this thread; no forward has run yet."""
        self._seen = blocks_seen()

    def __call__(
        self, input_ids: Int[Tensor, "rows length"], scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        """The scores.

        Raises:
            UnsupportedGenerationError: if attention went by unseen, as in a compiled model.
        """
        require_seen(self._seen)
        self._seen = blocks_seen()
        return scores


class LogitsMethod(Method):
    """A method whose processor goes before the caller's own; prompts without an image are left alone."""

    requires: ClassVar[tuple[Lever, ...]] = ("logits",)

    def __init__(self, model: PreTrainedModel, config: MethodConfig) -> None:
        """See `Method`."""
        find_family(model)
        if not hasattr(model, "generate"):
            raise UnsupportedModelError(
                f"{self.name} acts on `generate`: got {type(model).__name__}, which has none; expected a model with a "
                "language head. Load it with AutoModelForImageTextToText."
            )
        self.config = config

    @abstractmethod
    def begin(self, call: GenerateCall) -> LogitsProcessor | None:
        """The processor for one call of `generate`, whose prompt has an image; None of a method without.

        Plans for the call's own attention go into `call.attending`.

        Raises:
            UnsupportedGenerationError: for a way of generating that the method cannot serve.
        """

    def install(self, model: PreTrainedModel, stack: HookStack) -> None:
        """See `Method`."""
        watch_generate(model, self._begin, stack)

    def _begin(self, call: GenerateCall) -> None:
        if visual_input(call.arguments) is None:
            return
        # A loop of the caller's own may call `generate` again, and hands on the processors of the call around it.
        around = next((one for one in current_calls() if self in one.kept), None)
        if around is not None:
            handed = call.arguments.get("logits_processor") or ()
            if not call.attending and any(one is other for one in handed for other in around.processors):
                call.attending.extend(around.attending)
            return
        refuse_assistance(call, self.name)
        others = len(call.attending)
        processor = self.begin(call)
        if len(call.attending) > others:
            call.arguments["disable_compile"] = True  # a compiled step would not go by the plans
            call.processors.append(AttentionSeen())
        if not isinstance(processor, ImageRowsProcessor):  # which looks itself
            call.processors.append(FiniteScores())
        if processor is not None:
            call.processors.append(processor)
        call.kept[self] = processor
