"""What is measured while a batch is generated: when its first logits arrive, and how they lean between yes and no."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import LogitsProcessor

from scr.reading import AnswerTokens, answer_margins

_DIGITS = 6  # of a probability, as in traces


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


@dataclass
class StepTimes(LogitsProcessor):
    """Passes logits through; counts them, and notes when the first and the last ones arrive.

    Attributes:
        device: where the model is, to wait for its kernels.
        steps: how many tokens were chosen.
    """

    device: torch.device
    steps: int = 0
    _first: float = 0.0
    _last: float = 0.0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Note the time; return the scores (rows × vocabulary) unchanged."""
        synchronize(self.device)
        self._last = time.perf_counter()
        self._first = self._first if self.steps else self._last
        self.steps += 1
        return scores

    @property
    def after_first_ms(self) -> float:
        """Milliseconds from the first logits to the last ones; 0 with fewer than two."""
        return 1000 * (self._last - self._first)


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was told; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
