"""A decoding loop for `generate` that runs a second branch of the same prompt in the rows below the first.

Two forwards per token become one over twice the rows, which on small batches costs little more than one. Greedy and
sampling only: the loop feeds both branches the tokens that were chosen for the first.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache, GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from .compat import after_step
from .generation import GenerateCall
from .prefills.cache import append_rows

_GOES_AS_USUAL = {
    "num_beams": "beams",
    "penalty_alpha": "contrastive search",
    "dola_layers": "dola_layers",
    "force_words_ids": "constrained beams",
    "constraints": "constrained beams",
    "synced_gpus": "synced_gpus",
    "custom_generate": "another decoding loop",
    "return_dict_in_generate": "return_dict_in_generate",
    "cache_implementation": "cache_implementation",
    "past_key_values": "a cache from before",
    "prefill_chunk_size": "prefill_chunk_size",
    "output_attentions": "output_attentions",
    "output_hidden_states": "output_hidden_states",
}
_USUAL = [("num_beams", 1), ("cache_implementation", "dynamic")]


class SecondBranch(Protocol):
    """The branch below, which answers on its own until it is joined."""

    def logits(self, tokens: Int[Tensor, "rows length"]) -> Float[Tensor, "rows vocab"]:
        """What it says after `tokens`; runs its prefill at the first call."""

    def give_up_cache(self) -> Cache:
        """Its keys and values, which are no longer its own."""

    def note(self, tokens: Int[Tensor, "rows length"], logits: Float[Tensor, "rows vocab"]) -> None:
        """Told what it says after `tokens`."""


def why_not_doubled(call: GenerateCall) -> str | None:
    """What in a call of `generate` this loop cannot do; None if it can do it."""
    if call.setting("use_cache") is False:
        return "use_cache=False"
    for name, words in _GOES_AS_USUAL.items():
        value = call.setting(name)
        if value is not None and value is not False and (name, value) not in _USUAL:
            return words
    return None


class DoubledLoop:
    """Made for one call of `generate`, as its `custom_generate`."""

    def __init__(self, second: SecondBranch, streamer: Any = None) -> None:
        """Bind the second branch, and the streamer, which `generate` does not hand to a custom loop."""
        self._second, self._streamer = second, streamer

    def __call__(
        self,
        model: Any,
        input_ids: Int[Tensor, "rows length"],
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        **model_kwargs: Any,
    ) -> Int[Tensor, "rows longer"]:
        """Decode; called by `generate` with everything prepared, and returns what it would: prompt and answer."""
        rows, second = len(input_ids), self._second
        pad = cast(Any, generation_config)._pad_token_tensor  # None where nothing ends
        ends = any(hasattr(criteria, "eos_token_id") for criteria in stopping_criteria)
        unfinished = torch.ones(rows, dtype=torch.bool, device=input_ids.device)
        inputs = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **model_kwargs)
        outputs = model(**inputs, return_dict=True)
        model_kwargs = after_step(model, outputs, model_kwargs)
        below = second.logits(input_ids)
        append_rows(model_kwargs["past_key_values"], second.give_up_cache())
        model_kwargs = {name: _twice(name, value, rows) for name, value in model_kwargs.items()}
        logits = torch.cat([outputs.logits[:, -1], below.to(outputs.logits)])
        while True:
            logits = logits.to(input_ids.device, torch.float32, copy=True)
            second.note(input_ids, logits[rows:])
            scores = logits_processor(cast(Any, input_ids), cast(Any, logits[:rows]))
            if generation_config.do_sample:
                chosen = torch.multinomial(scores.softmax(dim=-1), num_samples=1).squeeze(1)
            else:
                chosen = scores.argmax(dim=-1)
            if ends:
                chosen = torch.where(unfinished, chosen, pad.to(chosen))
            input_ids = torch.cat([input_ids, chosen[:, None]], dim=1)
            if self._streamer is not None:
                self._streamer.put(chosen.cpu())
            unfinished = unfinished & ~stopping_criteria(input_ids, None)
            if not unfinished.any():
                break
            both = input_ids.repeat(2, 1)
            inputs = model.prepare_inputs_for_generation(both, next_sequence_length=1, **model_kwargs)
            outputs = model(**inputs, return_dict=True)
            model_kwargs = after_step(model, outputs, model_kwargs)
            logits = outputs.logits[:, -1]
        if self._streamer is not None:
            self._streamer.end()
        return input_ids


def _twice(name: str, value: Any, rows: int) -> Any:
    if not isinstance(value, Tensor) or value.ndim < 2:
        return value
    dim = value.ndim - 2 if name == "position_ids" else 0  # M-RoPE's have an axis before the batch
    return torch.cat([value, value], dim=dim) if value.shape[dim] == rows else value
