"""What methods that change attention have in common: a plan for the rows of each `generate` of a prompt with images."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedModel

from .._hooks import (
    AttentionPlan,
    GenerateCall,
    HookStack,
    LayerAttention,
    Placed,
    find_family,
    image_tokens,
    tap_attention,
)
from .base import Lever
from .depth import with_maps, within
from .logits import LogitsMethod


class AttentionMethod(LogitsMethod):
    """A method that changes what tokens attend to; prompts without an image, and rows of text alone, are left alone."""

    requires: ClassVar[tuple[Lever, ...]] = ("attention",)

    @abstractmethod
    def plan(self, call: GenerateCall) -> AttentionPlan | None:
        """Its part in the attention of one call of `generate`; None where it would change nothing.

        Raises:
            UnsupportedGenerationError: for a way of generating that the method cannot serve.
        """

    def install(self, model: Any, stack: HookStack) -> None:
        """See `Method`."""
        tap_attention(model, stack)
        super().install(model, stack)

    def begin(self, call: GenerateCall) -> None:
        """See `LogitsMethod`."""
        if (plan := self.plan(call)) is not None:
            call.attending.append(plan)


class InLayers(LogitsMethod):
    """A method that acts in certain blocks that have attention, by the field `layers` of its configuration."""

    published: ClassVar[range | None] = None
    """The blocks of 32 that a None stands for, scaled by depth; all if None."""

    def __init__(self, model: PreTrainedModel, config: Any) -> None:
        """See `Method`."""
        super().__init__(model, config)
        every = range(len(find_family(model).layers(model)))
        chosen = config.layers if self.published else config.layers or every
        layers = within("layers", chosen, self.published or every, len(every))
        self.layers = with_maps("layers", layers, model)
        self.config = replace(config, layers=layers)


class LooksAtImage(AttentionPlan):
    """Changes what chosen tokens make of an image: the last of each prompt, unless told others, and all after it.

    So it is with and without a cache, in prompts that come in parts, and for every beam.
    """

    def __init__(
        self, call: GenerateCall, layers: Sequence[int], chosen: Bool[Tensor, "prompts length"] | None = None
    ) -> None:
        """Change nothing yet.

        Args:
            call: of `generate`.
            layers: blocks.
            chosen: which of the prompts' tokens; on the CPU. Of a row without an image none is taken.
        """
        self.image = image_tokens(call.model, call.model_inputs)
        if chosen is None:
            chosen = torch.zeros_like(self.image)
            chosen[:, -1] = True
        self._layers, self._chosen = layers, chosen
        self._placed_image, self._placed, self._place = Placed(self.image), Placed(), (-1, -1)

    @abstractmethod
    def look(
        self,
        attention: LayerAttention,
        queries: Int[Tensor, "rows queries"],
        where: Bool[Tensor, "rows queries"],
        image: Bool[Tensor, "rows keys"],
    ) -> None:
        """Change one block.

        Args:
            attention: the block's.
            queries: the chosen tokens of this forward.
            where: False for one that fills a short row up.
            image: which keys are image tokens.
        """

    def attend(self, attention: LayerAttention) -> None:
        """See `AttentionPlan`."""
        if attention.layer not in self._layers:
            return
        if self._place != (attention.past, attention.queries):
            self._place, self._placed = (attention.past, attention.queries), Placed(*self._listed(attention))
        queries, where = self._placed.on(attention.device)
        if queries.shape[1]:
            (image,) = self._placed_image.on(attention.device)
            self.look(attention, queries, where, attention.columns(repeated(attention, image)))

    def _listed(self, attention: LayerAttention) -> tuple[Int[Tensor, "rows queries"], Bool[Tensor, "rows queries"]]:
        """Which queries of a forward are chosen, row by row, filled up with others; on the CPU."""
        new = attention.tokens - self._chosen.shape[1]
        chosen = torch.nn.functional.pad(self._chosen, (0, new), value=True)[:, attention.past :]
        chosen = repeated(attention, chosen & self.image.any(dim=1, keepdim=True))
        queries = torch.argsort((~chosen).int(), dim=1, stable=True)[:, : int(chosen.sum(dim=1).max())]
        return queries, chosen.gather(1, queries)


def repeated(attention: LayerAttention, of_prompts: Tensor) -> Tensor:
    """What is known of each prompt, for each of its rows: `generate` repeats prompts for beams."""
    return of_prompts.repeat_interleave(attention.batch // len(of_prompts), dim=0)
