"""One prompt's part in OPERA: weighs its candidates, chooses among them, and goes back where that is due."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .beams import BeamRules, Beams
from .over_trust import BAN, log_shares, most_common, over_trust, with_penalties, with_row
from .rollback import FIRST, Moment, Trail


@dataclass(frozen=True)
class OverTrust:
    """What to look for and what to do about it; the fields of `scr.methods.opera.OPERAConfig`."""

    penalty: float
    scale: float
    candidates: int
    threshold: int | None
    official: bool


@dataclass(frozen=True)
class Return:
    """What becomes of a prompt's columns in the cache when its search goes back; see `RunningRows.go_back`."""

    dropped: list[int]
    kept: list[int]
    lines: list[Int[Tensor, "beams"]]


class Search:
    """The beams of one prompt, through one `generate`.

    Each round is `weigh`, if it `weighs`, then `scores`, `choose`, and `fed` with what was chosen.

    Attributes:
        came_from: which beam each goes on from, by the choice just made.
        returning: set by `weigh` where the search goes back instead of choosing, until the next token is `fed`.
    """

    def __init__(
        self, tokens: Int[Tensor, "beams prompt"], image: Int[Tensor, "some"], settings: OverTrust, rules: BeamRules
    ) -> None:
        """At the prompt's end.

        Args:
            tokens: the prompt, once for each beam.
            image: its tokens of an image; without any the search is transformers' own.
            settings: what to do where there is one.
            rules: those of the call.
        """
        self._image, self._settings, self._rules = image, settings, rules
        self._looks = len(image) > 0 and (settings.penalty > 0 or settings.threshold is not None)
        self.may_return = self._looks and settings.threshold is not None
        self._trail = Trail(
            Beams.of_prompt(tokens), settings.threshold if self._looks else None, tries=settings.candidates
        )
        self._columns: list[int] = []
        self._sums, self._locations = self._trail.now.sums, self._trail.now.locations
        self._weighed: Float[Tensor, "beams vocab"] | None = None
        self._open = False
        self.came_from = self._trail.now.came_from
        self.returning: Return | None = None

    @property
    def beams(self) -> Beams:
        """As they are now."""
        return self._trail.now.beams

    @property
    def chooses(self) -> bool:
        """Whether it takes a token in this round."""
        return not self.beams.over and self.returning is None

    @property
    def weighs(self) -> bool:
        """Whether it asks how its candidates attend: not in the step after a return, where every token is open."""
        return self._looks and not self.beams.over and not self._open

    def tokens_at(self, length: int) -> Int[Tensor, "beams length"]:
        """The beams, cut or filled to a length."""
        tokens = self.beams.tokens[:, :length]
        return torch.cat([tokens, tokens[:, -1:].expand(-1, length - tokens.shape[1])], dim=1)

    def ending_at(self, length: int) -> Int[Tensor, "beams length"]:
        """The same, with the token at the end that is fed next; of a search that is over it matters to nobody."""
        return torch.cat([self.tokens_at(length - 1), self.beams.tokens[:, -1:]], dim=1)

    def weigh(
        self,
        logits: Float[Tensor, "beams vocab"],
        candidates: Int[Tensor, "beams count"],
        attention: Float[Tensor, "beams count keys"],
    ) -> None:
        """Find what each candidate would trust too much; goes back if the answer has done so for long.

        Args:
            logits: of the next token.
            candidates: the likeliest.
            attention: of each candidate, whose own key is the last.
        """
        settings, now = self._settings, self._trail.now
        columns = [*self._columns, attention.shape[-1] - 1]
        sums = with_row(
            self._sums[:, None].expand(-1, candidates.shape[1], -1), log_shares(attention, columns, settings.scale)
        )
        penalties, places = over_trust(sums, settings.official)
        if settings.official and len(columns) <= FIRST:
            penalties = -(attention[..., self._image] / attention.sum(dim=-1, keepdim=True)).sum(dim=-1)
        penalties = settings.penalty * penalties
        if not settings.official:
            penalties = penalties.clamp(max=BAN)
        self._weighed = with_penalties(logits, candidates, penalties) if settings.penalty > 0 else logits
        places = most_common(places)
        self._locations = torch.cat([now.locations, places[:, None]], dim=1)
        kept = self._trail.where_to(self._locations, int(most_common(places)))
        if kept is not None:
            self._go_back(kept, logits.shape[1])

    def _go_back(self, kept: int, vocab: int) -> None:
        self._trail.go_back(kept, vocab)
        # The last token's own column goes too, since it is fed again.
        columns, dropped = self._columns[: kept - 1], self._columns[kept - 1 :]
        self.returning = Return(dropped, columns, self._trail.ancestors())
        self._columns, self._locations, self._open = columns, self._trail.now.locations, True

    def scores(self, logits: Float[Tensor, "beams vocab"]) -> Float[Tensor, "beams vocab"]:
        """The logits to choose by."""
        if self._open and self.returning is None:
            return torch.where(self._trail.banned(logits.shape[1]), logits.amin(dim=1, keepdim=True), logits)
        return logits if self._weighed is None else self._weighed

    def choose(
        self,
        log_probs: Float[Tensor, "beams vocab"],
        stops: Callable[[Int[Tensor, "kept longer"]], Bool[Tensor, "kept"]],
    ) -> None:
        """Take a token, by log-probabilities behind all logits processors; nothing where it does not choose."""
        self.came_from = torch.arange(len(self.came_from), device=self.came_from.device)
        if self.chooses:
            beams, self.came_from = self.beams.step(log_probs, self._rules, stops)
            moment = Moment(beams, self.came_from, self._sums[self.came_from], self._locations[self.came_from])
            self._trail.go_on(moment)
            self._locations, self._open = moment.locations, False
        self._weighed = None

    def fed(self, column: int, attention: Float[Tensor, "beams keys"] | None) -> None:
        """The last tokens have their keys in this column of the cache, and attended so."""
        self.returning = None
        self._columns.append(column)
        if self._looks and attention is not None and not self.beams.over:
            self._sums = with_row(self._trail.now.sums, log_shares(attention, self._columns, self._settings.scale))
