"""Beam search that penalises what trusts its own words too much, and goes back to where that began (OPERA).

Every prompt of a batch is searched by itself: its penalties, its history and its returns depend on its own beams alone.
They share forwards, and logits processors, which see the whole batch as in transformers' own search. After one prompt
has gone back the answers are of unequal lengths: then processors are called once for each length, and what they say
about rows of another one is left out.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from .._hooks import GenerateCall, why_not_joined
from ..errors import NotFiniteError
from .beams import BeamRules, answers
from .reading import Reader
from .running import RunningRows
from .search import OverTrust, Search

_PLAIN = (("num_beam_groups", 1), ("guidance_scale", 1))
_NO_SEARCH = (
    "do_sample",
    "streamer",
    "inputs_embeds",
    "low_memory",
    "token_healing",
    "num_beam_groups",
    "guidance_scale",
)


def why_not_searched(call: GenerateCall) -> str | None:
    """What in a call of `generate` with beams this loop cannot do; None if it can do it."""
    for name in _NO_SEARCH:
        value = call.setting(name)
        if value is not None and value is not False and (name, value) not in _PLAIN:
            return name
    return why_not_joined(call, beams=True)


class OverTrustLoop:
    """Made for one call of `generate` with beams, as its `custom_generate`."""

    def __init__(self, settings: OverTrust, image: Bool[Tensor, "prompts prompt"], read: Reader) -> None:
        """Bind them.

        Args:
            settings: what to look for and what to do.
            image: which tokens of each prompt are an image's; prompts without any are searched as always.
            read: runs a forward and reads its attention.
        """
        self._settings, self._image, self._read = settings, image, read

    def __call__(
        self,
        model: Any,
        input_ids: Int[Tensor, "rows length"],
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        **model_kwargs: Any,
    ) -> Int[Tensor, "sequences longer"]:
        """Decode; called by `generate` with everything prepared, and returns what it would: prompt and answer."""
        rules = BeamRules.of(generation_config, input_ids.shape[1])
        stops = functools.partial(cast(Any, stopping_criteria), scores=None)
        searches = [
            Search(tokens, image.nonzero()[:, 0].to(tokens.device), self._settings, rules)
            for tokens, image in zip(input_ids.split(rules.beams), self._image, strict=True)
        ]
        firsts = range(0, len(input_ids), rules.beams)
        read = self._read if any(search.weighs for search in searches) else None
        running = RunningRows(model, model_kwargs, any(search.may_return for search in searches))
        logits = running.prefill(input_ids)
        while True:
            _require_numbers(logits, rules.beams)
            if any(search.weighs for search in searches):
                self._weigh(searches, running, logits)
            groups = zip(searches, logits.split(rules.beams), strict=True)
            log_probs = torch.cat([search.scores(group) for search, group in groups]).log_softmax(dim=-1)
            log_probs = _processed(logits_processor, searches, log_probs)
            for search, group in zip(searches, log_probs.split(rules.beams), strict=True):
                search.choose(group, stops)
            if all(search.beams.over for search in searches):
                return answers([search.beams for search in searches], generation_config)
            running.reorder(torch.cat([one.came_from + first for one, first in zip(searches, firsts, strict=True)]))
            for search, first in zip(searches, firsts, strict=True):
                if search.returning is not None:
                    running.go_back(slice(first, first + rules.beams), search.returning)
            longest = max(search.beams.tokens.shape[1] for search in searches)
            logits, attention = running.feed(torch.cat([search.ending_at(longest) for search in searches]), read)
            for search, first in zip(searches, firsts, strict=True):
                own = None if attention is None else attention[first : first + rules.beams].to(logits)
                search.fed(running.width - 1, own)

    def _weigh(self, searches: Sequence[Search], running: RunningRows, logits: Float[Tensor, "rows vocab"]) -> None:
        """One forward for each of the beams' candidates, of all rows at once."""
        candidates = logits.topk(self._settings.candidates).indices
        seen = torch.stack([running.peek(tokens, self._read) for tokens in candidates.unbind(dim=1)], dim=1).to(logits)
        beams = len(logits) // len(searches)
        parts = zip(searches, *(one.split(beams) for one in (logits, candidates, seen)), strict=True)
        for search, *own in parts:
            if search.weighs:
                search.weigh(*own)


def _require_numbers(logits: Float[Tensor, "rows vocab"], beams: int) -> None:
    """Raise NotFiniteError where no token could be chosen."""
    if logits.isnan().any():
        row = int(logits.isnan().any(dim=-1).int().argmax()) // beams
        raise NotFiniteError(
            f"logits of row {row} are not finite: got NaN; expected numbers. Look for NaN in the prompt's pixels and "
            "in the model's weights, or load the model in a wider number format."
        )


def _processed(
    processors: LogitsProcessorList, searches: Sequence[Search], scores: Float[Tensor, "rows vocab"]
) -> Float[Tensor, "rows vocab"]:
    """The scores behind the processors, right for the rows of every search that chooses."""
    lengths = sorted({search.beams.tokens.shape[1] for search in searches if search.chooses})
    found = scores
    for length in lengths:
        tokens: Any = torch.cat([search.tokens_at(length) for search in searches])
        given: Any = scores.clone()
        own = [search.beams.tokens.shape[1] == length for search in searches for _ in search.beams.tokens]
        found = torch.where(torch.tensor(own, device=scores.device)[:, None], processors(tokens, given), found)
    return found
