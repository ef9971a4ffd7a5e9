"""Read what earlier layers would say: the last token's hidden states at each step, through the language head."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .._hooks import StepHooks, beside_generate, find_family
from .logits import ImageRowsProcessor


def read_layers(hooks: StepHooks, model: Any, layers: Iterable[int]) -> None:
    """Let each call's `LayersProcessor` note the hidden states of some layers: 0 for the embeddings, l for block l.

    The first block is 1, as in transformers' `hidden_states`.
    """
    blocks = find_family(model).layers(model)
    for layer in layers:
        note = functools.partial(_note, layer)
        if layer == 0:
            hooks.before(blocks[0], note)
        else:
            hooks.after(blocks[layer - 1], note)
    hooks.before(model.get_output_embeddings(), _note_last)


class LayersProcessor(ImageRowsProcessor):
    """One call's processor that knows what earlier layers say about the step that was just made."""

    def __init__(self, model: Any, inputs: Mapping[str, Any], layers: Sequence[int], normed: bool = False) -> None:
        """Read nothing yet.

        Args:
            model: the model.
            inputs: see `ImageRowsProcessor`.
            layers: as given to `read_layers`.
            normed: whether the states pass the final norm before the head.
        """
        super().__init__(model, inputs)
        self.hidden: dict[int, Float[Tensor, "rows dim"]] = {}
        self.last: Tensor
        self._layers, self._head = layers, model.get_output_embeddings()
        self._norm = find_family(model).final_norm(model) if normed else nn.Identity()

    @torch.no_grad()
    def early_logits(self) -> Float[Tensor, "layers rows vocab"]:
        """What the layers say, in the head's number format."""
        return self.says(torch.stack([self.hidden[layer].to(self.last) for layer in self._layers]))

    def says(self, states: Float[Tensor, "*layers rows dim"]) -> Float[Tensor, "*layers rows vocab"]:
        """What states say through norm and head.

        They are called as the model calls them: their parameters may be elsewhere, or packed, or none.
        """
        with beside_generate():
            return self._head(self._norm(states))


def _note(layer: int, processor: LayersProcessor, hidden: Float[Tensor, "rows seq dim"]) -> None:
    processor.hidden[layer] = hidden[:, -1].detach()


def _note_last(processor: LayersProcessor, hidden: Float[Tensor, "rows seq dim"]) -> None:
    processor.last = hidden[:, -1].detach()
