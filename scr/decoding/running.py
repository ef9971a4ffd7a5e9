"""The rows of a batch as the model sees them while a loop of our own decodes: cache, mask and positions.

All rows get a token in every forward, so that whatever else is on the model sees the batch that it knows. A row that
goes back to an earlier token keeps its place: the columns of what it drops are masked, as padding is, and its next
token has the position that follows what is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from .._hooks import after_step, beside_generate, fork
from ..errors import UnsupportedGenerationError
from .reading import Reader
from .search import Return


class RunningRows:
    """One `generate` of one batch."""

    def __init__(self, model: Any, model_kwargs: Mapping[str, Any], remember: bool) -> None:
        """Nothing runs yet.

        Args:
            model: whose `generate` it is.
            model_kwargs: what `generate` has prepared, with a new cache.
            remember: whether rows may go back: then a second copy of the answers' keys and values is kept.

        Raises:
            UnsupportedGenerationError: for a cache that forgets, or whose columns are no tokens.
        """
        self._model, self._kwargs, self._remember = model, dict(model_kwargs), remember
        self._steps: list[list[tuple[Tensor, Tensor]]] = []
        cache = self._kwargs.get("past_key_values")
        if not isinstance(cache, DynamicCache) or any(cache.is_sliding):
            kind = type(cache).__name__ if not isinstance(cache, DynamicCache) else "sliding windows"
            raise UnsupportedGenerationError(
                f"a cache in which rows cannot go back: got {kind}; expected a DynamicCache of whole attention. "
                "Generate with use_cache=True and without cache_implementation, on a model without sliding windows."
            )
        if remember and any(cache.is_linear):
            raise UnsupportedGenerationError(
                "a cache in which rows cannot go back: got states of linear attention; expected keys and values in "
                "every block. Set opera's threshold to None, so that no row goes back, or use another model."
            )

    @property
    def width(self) -> int:
        """Columns of the cache."""
        return int(self._kwargs["past_key_values"].get_seq_length())

    def prefill(self, tokens: Int[Tensor, "rows prompt"]) -> Float[Tensor, "rows vocab"]:
        """What comes after the prompts."""
        self._device = tokens.device
        inputs = self._model.prepare_inputs_for_generation(tokens, is_first_iteration=True, **self._kwargs)
        return self._after(self._model(**inputs, return_dict=True))

    def feed(
        self, tokens: Int[Tensor, "rows length"], read: Reader | None
    ) -> tuple[Float[Tensor, "rows vocab"], Float[Tensor, "rows keys"] | None]:
        """What comes after one token more, the last of `tokens`, and how it attended, if `read`."""
        outputs, attention = self._forward(tokens, self._kwargs["past_key_values"], read)
        logits = self._after(outputs)
        if self._remember:
            layers = self._kwargs["past_key_values"].layers
            self._steps.append([(layer.keys[:, :, -1].clone(), layer.values[:, :, -1].clone()) for layer in layers])
        return logits, attention

    def peek(self, tokens: Int[Tensor, "rows"], read: Reader) -> Float[Tensor, "rows keys"]:
        """How these tokens would attend, of which no trace is left.

        Beside the call: what other methods do in its steps, as DoLa that notes their layers, they do not do here.
        """
        with beside_generate():
            attention = self._forward(tokens[:, None], fork(self._kwargs["past_key_values"]), read)[1]
        assert attention is not None
        return attention

    def reorder(self, came_from: Int[Tensor, "rows"]) -> None:
        """Let each row go on from another."""
        if not torch.equal(came_from, torch.arange(len(came_from), device=came_from.device)):
            self._kwargs["past_key_values"].reorder_cache(came_from)

    def go_back(self, rows: slice, returned: Return) -> None:
        """Let `rows` go back to earlier tokens, of which the last is fed next."""
        cache = self._kwargs["past_key_values"]
        first = self.width - len(self._steps)
        for column, line in zip(returned.kept, returned.lines, strict=True):
            for layer, (keys, values) in zip(cache.layers, self._steps[column - first], strict=True):
                layer.keys[rows, :, column] = keys[rows][line.to(keys.device)]
                layer.values[rows, :, column] = values[rows][line.to(values.device)]
        mask, positions = self._kwargs.get("attention_mask"), self._kwargs.get("position_ids")
        if mask is None:  # left out by `generate` where nothing is padding
            mask = torch.ones(len(cache.layers[0].keys), self.width + 1, dtype=torch.long, device=self._device)
        self._kwargs["attention_mask"] = mask = mask.clone()
        mask[rows, returned.dropped] = 0
        if positions is not None:
            self._kwargs["position_ids"] = positions = positions.clone()
            positions[..., rows, -1] -= len(returned.dropped)  # M-RoPE's have an axis before the batch

    def _forward(self, tokens: Tensor, cache: Any, read: Reader | None) -> tuple[Any, Tensor | None]:
        inputs = self._model.prepare_inputs_for_generation(
            tokens, next_sequence_length=1, **{**self._kwargs, "past_key_values": cache}
        )

        def forward() -> Any:
            return self._model(**inputs, return_dict=True)

        return (forward(), None) if read is None else read(forward)

    def _after(self, outputs: Any) -> Float[Tensor, "rows vocab"]:
        self._kwargs = after_step(self._model, outputs, self._kwargs)
        return outputs.logits[:, -1].to(self._device, torch.float32, copy=True)
