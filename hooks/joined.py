"""A decoding loop for `generate` that runs other branches of the same prompts in the rows below the first.

A forward of each branch per token becomes one over all rows, which on small batches costs little more than one. Greedy
and sampling only: the loop feeds all branches the tokens that were chosen for the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache, GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from .compat import after_step
from .generation import GenerateCall
from .prefills.cache import append_rows
from .taps.tapping import Attending, AttentionPlan, attending

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


class Begun(NamedTuple):
    """What it takes to go on after a prefill.

    Attributes:
        cache: keys and values.
        mask: which of its tokens are no padding.
        positions: of the last token, with M-RoPE's axis before the batch.
    """

    cache: Cache
    mask: Int[Tensor, "rows seq"]
    positions: Int[Tensor, "*axes rows 1"]


class OtherBranch(Protocol):
    """A branch below, which answers on its own until it is joined."""

    plan: AttentionPlan | None
    """Its part in the attention of its own rows."""

    def logits(self, tokens: Int[Tensor, "rows length"]) -> Float[Tensor, "rows vocab"]:
        """What it says after `tokens`; runs its prefill at the first call."""

    def hand_over(self) -> Begun:
        """Its cache, which is no longer its own."""

    def note(self, tokens: Int[Tensor, "rows length"], logits: Float[Tensor, "rows vocab"]) -> None:
        """Told what it says after `tokens`."""


def why_not_joined(call: GenerateCall, beams: bool = False) -> str | None:
    """What in a call of `generate` this loop cannot do, or one that does `beams`; None if it can do it."""
    if call.setting("use_cache") is False:
        return "use_cache=False"
    mask = call.arguments.get("attention_mask")
    if isinstance(mask, Tensor) and mask.ndim != 2:
        return "an attention mask that is not of two axes"
    for name, words in _GOES_AS_USUAL.items():
        value = None if beams and name == "num_beams" else call.setting(name)
        if value is not None and value is not False and (name, value) not in _USUAL:
            return words
    return None


class JoinedLoop:
    """Made for one call of `generate`, as its `custom_generate`."""

    def __init__(self, others: Sequence[OtherBranch], streamer: Any = None) -> None:
        """Bind the other branches, and the streamer, which `generate` does not hand to a custom loop."""
        self._others, self._streamer = tuple(others), streamer

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
        rows = len(input_ids)
        pad = cast(Any, generation_config)._pad_token_tensor  # None where nothing ends
        ends = any(hasattr(criteria, "eos_token_id") for criteria in stopping_criteria)
        unfinished = torch.ones(rows, dtype=torch.bool, device=input_ids.device)
        inputs = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **model_kwargs)
        outputs = model(**inputs, return_dict=True)
        first = outputs.logits[:, -1]
        logits = torch.cat([first, *(other.logits(input_ids).to(first) for other in self._others)])
        model_kwargs, plans = self._join(after_step(model, outputs, model_kwargs), rows)
        while True:
            logits = logits.to(input_ids.device, torch.float32, copy=True)
            for other, own in zip(self._others, logits[rows:].split(rows), strict=True):
                other.note(input_ids, own)
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
            everywhere = input_ids.repeat(1 + len(self._others), 1)
            inputs = model.prepare_inputs_for_generation(everywhere, next_sequence_length=1, **model_kwargs)
            with attending(model, plans):
                outputs = model(**inputs, return_dict=True)
            model_kwargs = after_step(model, outputs, model_kwargs)
            logits = outputs.logits[:, -1]
        if self._streamer is not None:
            self._streamer.end()
        return input_ids

    def _join(self, model_kwargs: dict[str, Any], rows: int) -> tuple[dict[str, Any], list[Attending]]:
        """Everything for the next forward, of all rows; the first branch's is one token further than the others'."""
        cache = model_kwargs["past_key_values"]
        begun = [other.hand_over() for other in self._others]
        lengths = [cache.get_seq_length(), *(one.cache.get_seq_length() for one in begun)]
        pads = [max(lengths) - length for length in lengths]
        append_rows(cache, [one.cache for one in begun], pads)
        joined = {name: _repeated(value, rows, len(lengths)) for name, value in model_kwargs.items()}
        mask = model_kwargs.get("attention_mask")
        if any(pads) or mask is not None or not all(one.mask.all() for one in begun):
            masks = [torch.ones(rows, lengths[0] + 1) if mask is None else mask]
            masks += [torch.nn.functional.pad(one.mask, (0, 1), value=1) for one in begun]
            joined["attention_mask"] = torch.cat(
                [
                    torch.nn.functional.pad(one.to(begun[0].mask), (left, 0))
                    for one, left in zip(masks, pads, strict=True)
                ]
            )
        if (positions := model_kwargs.get("position_ids")) is not None:
            axis = positions.ndim - 2  # M-RoPE's have one before the batch
            last = [positions[..., -1:], *((one.positions + 1).to(positions) for one in begun)]
            last = [one.expand(*positions.shape[:-2], -1, -1) for one in last]
            joined["position_ids"] = torch.cat(last, dim=axis)
        plans = [
            Attending(slice(index * rows, (index + 1) * rows), other.plan, pads[index])
            for index, other in enumerate(self._others, start=1)
            if other.plan is not None
        ]
        return joined, plans


def _repeated(value: Any, rows: int, times: int) -> Any:
    if isinstance(value, Tensor) and value.ndim >= 2 and len(value) == rows:
        return value.repeat(times, *(1 for _ in value.shape[1:]))
    return value
