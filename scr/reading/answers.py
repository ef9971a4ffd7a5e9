"""How an answer leans between yes and no at its first token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_YES = ("Yes", "yes", "YES", " Yes", " yes", " YES")
_NO = ("No", "no", "NO", " No", " no", " NO")
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


def _first_tokens(tokenizer: Any, spellings: Sequence[str]) -> set[int]:
    encoded = (tokenizer.encode(spelling, add_special_tokens=False) for spelling in spellings)
    return {ids[0] for ids in encoded if ids}
