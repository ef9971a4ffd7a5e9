"""Where a beam search has been, when it goes back there, and what it may not take again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .beams import Beams

FIRST = 10
"""The first column of an answer that a search may go back to."""


@dataclass(frozen=True)
class Moment:
    """One prompt's search before a token of its answer is chosen.

    Attributes:
        beams: as they are then.
        came_from: which beam of the moment before each goes on from.
        sums: of the answer's columns, by `over_trust.with_row`, without the row of the last token.
        locations: the strongest column of each step so far, for each beam.
    """

    beams: Beams
    came_from: Int[Tensor, "beams"]
    sums: Float[Tensor, "beams fed"]
    locations: Int[Tensor, "beams steps"]


class Trail:
    """The moments of one prompt's search, by the length of the answer then."""

    def __init__(self, first: Beams, threshold: int | None, tries: int) -> None:
        """At the prompt's end.

        Args:
            first: the beams there.
            threshold: go back where the same column was the strongest in more steps than this; None: never.
            tries: how often it goes back to one length of the answer.
        """
        device, beams = first.tokens.device, len(first.tokens)
        none = torch.zeros(beams, 0, device=device)
        self.moments = [Moment(first, torch.arange(beams, device=device), none, none.long())]
        self._threshold, self._tries = threshold, tries
        self._returns: Counter[int] = Counter()
        self._taken: dict[int, list[Int[Tensor, "beams"]]] = {}

    @property
    def now(self) -> Moment:
        """The last one."""
        return self.moments[-1]

    def go_on(self, moment: Moment) -> None:
        """One token more."""
        if self._threshold is None:
            self.moments.clear()
        self.moments.append(moment)

    def where_to(self, locations: Int[Tensor, "beams steps"], column: int) -> int | None:
        """How much of the answer to keep, if it is time to go back: up to the token that is trusted too much.

        Args:
            locations: the strongest column of each step, this one's too.
            column: that of this step, of all beams.
        """
        if self._threshold is None or column < FIRST:
            return None
        if not bool(((locations == column).sum(dim=1) > self._threshold).all()):
            return None
        kept = min(column + 1, len(self.moments) - 2)  # before the last token at least
        return next((length for length in (kept, kept - 1) if self._returns[length] < self._tries), None)

    def go_back(self, kept: int, vocab: int) -> None:
        """To the moment when the answer had `kept` tokens; what was taken there is banned the next time."""
        later = self.moments[kept + 1]
        taken = later.came_from * vocab + later.beams.tokens[:, -1]
        self._returns[kept] += 1
        self._taken = {length: pairs for length, pairs in self._taken.items() if length <= kept}
        self._taken.setdefault(kept, []).append(taken)
        del self.moments[kept + 1 :]

    def banned(self, vocab: int) -> Bool[Tensor, "beams vocab"]:
        """The pairs of a beam and a token that were taken at this moment before."""
        beams = len(self.now.beams.tokens)
        pairs = torch.cat(self._taken.get(len(self.moments) - 1, [self.now.came_from.new_zeros(0)]))
        banned = torch.zeros(beams * vocab, dtype=torch.bool, device=pairs.device)
        return banned.index_fill(0, pairs, True).unflatten(0, (beams, vocab))

    def ancestors(self) -> list[Int[Tensor, "beams"]]:
        """For each token of the answer but the last: which beam of the moment after it today's beams come from."""
        lines, beam = [], torch.arange(len(self.now.came_from), device=self.now.came_from.device)
        for moment in reversed(self.moments[2:]):
            beam = moment.came_from[beam]
            lines.append(beam)
        return lines[::-1]
