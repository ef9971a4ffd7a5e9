"""One prompt's beam search, by the rules of transformers' own: which beams are open, which have ended, when it is over.

Nothing here changes: a step makes new beams, so that whoever keeps the old ones can go back to them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import GenerationConfig

_NEVER = -1e9
"""What transformers adds to a score that must not win, and begins with where there is none."""


@dataclass(frozen=True)
class BeamRules:
    """What of a call's settings decides how beams are kept and when they end.

    Attributes:
        beams: how many are open.
        kept: continuations looked at in each step: so many that as many as there are beams do not end there.
        prompt: its tokens, of which a beam's length is counted.
        longest: tokens of the longest answer with its prompt.
        length_penalty: a sequence's score is divided by its answer's length to this power.
        early_stopping: True, False or "never", as in transformers.
    """

    beams: int
    kept: int
    prompt: int
    longest: int
    length_penalty: float
    early_stopping: bool | str

    @classmethod
    def of(cls, config: GenerationConfig, prompt: int) -> Self:
        """Of a configuration that `generate` has prepared, and the length of its prompts."""
        given: Any = config
        ends = 0 if given._eos_token_tensor is None else len(given._eos_token_tensor)
        return cls(
            beams=given.num_beams,
            kept=max(2, 1 + ends) * given.num_beams,
            prompt=prompt,
            longest=given.max_length,
            length_penalty=given.length_penalty,
            early_stopping=given.early_stopping,
        )


@dataclass(frozen=True)
class Beams:
    """The beams of one prompt after some steps.

    Attributes:
        tokens: of the open ones, prompt and answer, the best first.
        scores: the sums of their log-probabilities.
        ended: the best sequences that have ended, as many as there are beams, the best first.
        ended_scores: theirs, by length.
        has_ended: whether there is such a sequence, or only a place for one.
        over: whether the search is; then it makes no more steps, while transformers' own goes on with the batch.
    """

    tokens: Int[Tensor, "beams length"]
    scores: Float[Tensor, "beams"]
    ended: tuple[Int[Tensor, "some"], ...]
    ended_scores: Float[Tensor, "beams"]
    has_ended: Bool[Tensor, "beams"]
    over: bool = False

    @classmethod
    def of_prompt(cls, tokens: Int[Tensor, "beams length"]) -> Self:
        """Before the first step: all beams are equal, and the first alone counts."""
        nothing = torch.full((len(tokens),), _NEVER, dtype=torch.float32, device=tokens.device)
        first = nothing.clone()
        first[0] = 0
        return cls(tokens, first, tuple(tokens), nothing, torch.zeros_like(nothing, dtype=torch.bool))

    def step(
        self,
        log_probs: Float[Tensor, "beams vocab"],
        rules: BeamRules,
        stops: Callable[[Int[Tensor, "kept longer"]], Bool[Tensor, "kept"]],
    ) -> tuple[Beams, Int[Tensor, "beams"]]:
        """The beams one token on, and which of these beams each of them continues.

        Args:
            log_probs: of the next token, behind all logits processors.
            rules: those of the call.
            stops: the stopping criteria of the call.
        """
        vocab, length = log_probs.shape[1], self.tokens.shape[1] + 1 - rules.prompt
        best, places = (log_probs + self.scores[:, None]).flatten().topk(rules.kept)
        came_from = places // vocab
        tokens = torch.cat([self.tokens[came_from], (places % vocab)[:, None]], dim=1)
        stopped = stops(tokens)
        still_open = best + stopped.float() * _NEVER
        chosen = still_open.topk(rules.beams).indices
        scores = still_open[chosen]

        ends = stopped & (torch.arange(rules.kept, device=stopped.device) < rules.beams)
        by_length = best / length**rules.length_penalty + (~ends).float() * _NEVER
        ended_scores, places = torch.cat([self.ended_scores, by_length]).topk(rules.beams)
        sequences = (*self.ended, *tokens)
        has_ended = torch.cat([self.has_ended, ends])[places]

        hoped = rules.longest - rules.prompt if rules.early_stopping == "never" and rules.length_penalty > 0 else length
        worst = torch.where(has_ended, ended_scores.min(), _NEVER)
        improvable = bool((scores[0] / hoped**rules.length_penalty > worst).any())
        full = rules.early_stopping is True and bool(has_ended.all())
        after = Beams(
            tokens=tokens[chosen],
            scores=scores,
            ended=tuple(sequences[place] for place in places.tolist()),
            ended_scores=ended_scores,
            has_ended=has_ended,
            over=not improvable or full or bool(stopped.all()),
        )
        return after, came_from[chosen]


def answers(searches: list[Beams], config: GenerationConfig) -> Int[Tensor, "rows longest"]:
    """The best sequences of each prompt, `num_return_sequences` each, filled up as transformers fills them."""
    given: Any = config
    pad, ends = given._pad_token_tensor, given._eos_token_tensor
    # transformers takes the end token where the padding's id is 0.
    fill = int(pad or ends[0]) if ends is not None else -1
    rows = [row for beams in searches for row in beams.ended[: given.num_return_sequences]]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill)
