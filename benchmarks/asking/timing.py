"""What is measured while a batch is generated: when its first logits arrive, and how they lean between yes and no."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import LogitsProcessor

_YES = ("Yes", "yes", "YES", " Yes", " yes", " YES")
_NO = ("No", "no", "NO", " No", " no", " NO")
_DIGITS = 6  # of a probability, as in traces
_LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class AnswerTokens:
    """First tokens of the spellings of yes and of no.

    Attributes:
        yes: token ids that begin a yes and no spelling of no; empty if there are none.
        no: the reverse.
        reason: why margins cannot be measured; None where they can.
    """

    yes: tuple[int, ...]
    no: tuple[int, ...]
    reason: str | None = None


def answer_tokens(tokenizer: Any) -> AnswerTokens:
    """The tokens by which a tokenizer's yes and no can be told apart at the first answer position.

    Some tokenizers split a leading blank off, so that " yes" and " no" begin with one token: a token that begins
    both words says nothing and is left out, as is the token for unknown words.
    """
    special = set(tokenizer.all_special_ids)
    yes, no = _first_tokens(tokenizer, _YES) - special, _first_tokens(tokenizer, _NO) - special
    both = yes & no
    yes, no = yes - both, no - both
    reason = None if yes and no else "the tokenizer's spellings of yes and no begin with the same token"
    return AnswerTokens(tuple(sorted(yes)), tuple(sorted(no)), reason)


def answer_margins(scores: Tensor, tokens: AnswerTokens) -> list[float | None]:
    """Logit of yes minus logit of no, for each row of `scores`; each is the log-sum-exp over the spellings.

    A row in which both are −∞ (a processor has forbidden every spelling) has no margin: None. Where only one is, the
    margin is ± the largest float32: it ranks as infinite and, unlike infinity, is a JSON number.

    Args:
        scores: logits (or log-probabilities) of the first answer token, shape (rows, vocabulary).
        tokens: see `answer_tokens`.
    """
    if tokens.reason is not None:
        return [None] * len(scores)
    of_yes = scores[:, list(tokens.yes)].float().logsumexp(dim=-1)
    of_no = scores[:, list(tokens.no)].float().logsumexp(dim=-1)
    # −∞ − (−∞) and anything with NaN is NaN.
    margins = (of_yes - of_no).clamp(-_LARGEST, _LARGEST).tolist()
    return [None if margin != margin else margin for margin in margins]


class FirstToken(NamedTuple):
    """The likeliest first token of an answer, and the probability of the ids that its margin is read from."""

    token: int
    mass: float


def first_tokens(scores: Tensor, tokens: AnswerTokens) -> list[FirstToken | None]:
    """What the answer to each row of `scores` begins with; None for all where no margin can be read.

    Args:
        scores: logits (or log-probabilities) of the first answer token, shape (rows, vocabulary).
        tokens: see `answer_tokens`.
    """
    if tokens.reason is not None:
        return [None] * len(scores)
    mass = scores.float().softmax(dim=-1)[:, [*tokens.yes, *tokens.no]].sum(dim=-1).clamp(max=1)
    pairs = zip(scores.argmax(dim=-1).tolist(), mass.tolist(), strict=True)
    return [FirstToken(token, float(f"{share:.{_DIGITS}g}")) for token, share in pairs]


class BatchTiming(NamedTuple):
    """Amortised time of one sample of a batch: the batch's wall time divided by its rows.

    Attributes:
        prefill_ms: from the call of `generate` to the first logits, vision tower and a method's own passes included.
        decode_ms: the rest.
    """

    prefill_ms: float
    decode_ms: float


@dataclass
class FirstTokenProbe(LogitsProcessor):
    """Passes logits through; notes when the first ones arrive, and their margins.

    It must come last in the list that `generate` is given, so that it sees what a contrastive method made of them.

    Attributes:
        rows: number of prompts in the batch; beams of a prompt are rows beside each other.
        tokens: tokens of yes and no, None to measure no margin.
        device: where the model is, to wait for its kernels.
        first_logits_at: `time.perf_counter` at the first logits; None before.
        margins: one per prompt, empty before the first logits.
        first: what each answer begins with, likewise.
    """

    rows: int
    tokens: AnswerTokens | None
    device: torch.device
    first_logits_at: float | None = None
    margins: list[float | None] = field(default_factory=list)
    first: list[FirstToken | None] = field(default_factory=list)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Look at the first call's scores (rows × vocabulary); return every call's unchanged."""
        if self.first_logits_at is None:
            synchronize(self.device)
            self.first_logits_at = time.perf_counter()
            if self.tokens is not None:
                # Beams of one prompt are equal at the first step, so the first of each stands for all.
                prompts = scores[:: len(scores) // self.rows]
                self.margins = answer_margins(prompts, self.tokens)
                self.first = first_tokens(prompts, self.tokens)
        return scores

    def timing(self, started: float, finished: float) -> BatchTiming:
        """Split a batch's wall time; seconds of `time.perf_counter` before and after `generate`.

        A generation that gave no logits at all counts as prefill.
        """
        first = finished if self.first_logits_at is None else self.first_logits_at
        return BatchTiming(1000 * (first - started) / self.rows, 1000 * (finished - first) / self.rows)


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was told; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _first_tokens(tokenizer: Any, spellings: Sequence[str]) -> set[int]:
    encoded = (tokenizer.encode(spelling, add_special_tokens=False) for spelling in spellings)
    return {ids[0] for ids in encoded if ids}
