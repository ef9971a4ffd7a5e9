"""Stop at logits that are no numbers: an answer made of them would look like any other."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from transformers import LogitsProcessor

from scr import SCRError


class NotFiniteError(SCRError, ArithmeticError):
    """A model's logits are not finite, whatever the cause: its weights, an adapter's, or an overflow."""


class FiniteLogits(LogitsProcessor):
    """Passes logits through, if the largest of every row is a finite number; −∞ is what a processor forbids."""

    def __init__(self, names: Sequence[str]) -> None:
        """Take the names of the prompts; beams of a prompt are rows beside each other."""
        self._names = names

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Look at the scores (rows × vocabulary); return them unchanged.

        Raises:
            NotFiniteError: naming the first sample.
        """
        largest = scores.amax(dim=-1)  # which is NaN where any of them is
        if not largest.isfinite().all():
            row = int((~largest.isfinite()).int().argmax())
            raise NotFiniteError(
                f"logits that are not finite: got {largest[row].item()} for sample "
                f"{self._names[row * len(self._names) // len(scores)]!r}; expected numbers. Check the weights and the "
                "adapter's, or give another --dtype (float16 overflows where bfloat16 does not)."
            )
        return scores
