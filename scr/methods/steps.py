"""What methods have in common that act inside the steps of `generate`: hooks on the model, and what a call keeps."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from transformers import LogitsProcessor, PreTrainedModel

from .._hooks import GenerateCall, HookStack, StepHooks
from ..errors import UnsupportedGenerationError
from .base import Lever
from .logits import LogitsMethod


class StepsMethod(LogitsMethod):
    """A method with hooks on the model's blocks; prompts without an image, and rows of text alone, are left alone."""

    requires: ClassVar[tuple[Lever, ...]] = ("activations",)

    @abstractmethod
    def place(self, model: PreTrainedModel, hooks: StepHooks) -> None:
        """Put hooks on the model, which get what `start` returned for the call."""

    @abstractmethod
    def start(self, call: GenerateCall) -> Any:
        """What is kept for one call of `generate`; if it is a logits processor, it goes before the caller's own.

        Raises:
            UnsupportedGenerationError: for a way of generating that the method cannot serve.
        """

    def refuse_parts(self, call: GenerateCall) -> None:
        """Refuse a prompt that comes in parts, for a method that needs all of it.

        Raises:
            UnsupportedGenerationError: naming what parts it.
        """
        cache = call.arguments.get("past_key_values")
        for name, tokens in {
            "past_key_values": cache is not None and cache.get_seq_length(),
            "prefill_chunk_size": call.setting("prefill_chunk_size"),
        }.items():
            if tokens:
                raise UnsupportedGenerationError(
                    f"{self.name} reads the whole prompt at once: got {name} of {tokens} tokens; expected none. Give "
                    f"the whole conversation with all its images, and leave {name} out."
                )

    def install(self, model: PreTrainedModel, stack: HookStack) -> None:
        """See `Method`."""
        self._hooks = StepHooks(model, stack)
        self.place(model, self._hooks)
        super().install(model, stack)

    def begin(self, call: GenerateCall) -> LogitsProcessor:
        """See `LogitsMethod`."""
        kept = self.start(call)
        seen = self._hooks.begin(call, kept, self.name)
        if not isinstance(kept, LogitsProcessor):
            return seen
        call.processors.append(seen)
        return kept
