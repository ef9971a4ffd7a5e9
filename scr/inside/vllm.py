"""Two controls as logits processors of vLLM, for both of its runners. Read from the wheel of vLLM 0.33.0.

    vllm serve MODEL --logits-processors scr.inside.vllm:ShiftNo scr.inside.vllm:PlausibleTokens

A request says what it wants in `vllm_xargs`, by the names of the method's fields; one that says nothing is left alone.
There is no entry point: one that a runner rejects would stop every vLLM of its environment. The classes are made when
they are asked for, as they derive from vLLM's own; neither transformers nor `hooks` is imported.

Prompts without an image are no exception here, as a processor is not told which these are: leave the fields out.
"""

from __future__ import annotations

import dataclasses
import functools
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..contrast import plausible_tokens
from ..fields import LARGEST, SOME, Fields, Index, Share
from ..kinds import Between


@dataclass(frozen=True, kw_only=True)
class Shift(Fields):
    """What a request asks of `ShiftNo`.

    Attributes:
        shift: added to the logits of the tokens, at the first new token alone.
        no_tokens: ids that begin the spellings of "no"; those beyond the vocabulary are never said, and passed over.
    """

    shift: Annotated[float, Between(-LARGEST, LARGEST)]
    no_tokens: Annotated[tuple[Index, ...], SOME]


@dataclass(frozen=True, kw_only=True)
class Constraint(Fields):
    """What a request asks of `PlausibleTokens`.

    Attributes:
        plausibility: tokens whose probability is below this share of the highest are banned, before any temperature.
    """

    plausibility: Share


def __getattr__(name: str) -> Any:
    found = {kind.__name__: kind for kind in _processors()} if not name.startswith("_") else {}
    if name in found:
        return found[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def _processors() -> tuple[type, ...]:
    from vllm.v1.sample.logits_processor.interface import LogitsProcessor, MoveDirectionality
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as NewerLogitsProcessor

    class OfRequests(NewerLogitsProcessor, LogitsProcessor):
        """What both runners have in common: which rows are those of requests that ask for it, and how."""

        settings: ClassVar[type[Fields]]

        def __init__(self, vllm_config: Any, *given: Any) -> None:
            """The newer runner gives the state of its requests; the older one a device and whether memory is pinned."""
            self._prompts = given[0].prompt_len if len(given) == 1 else None
            # Slot of the newer runner, or row of the older one → what is asked, and what is said so far.
            self._asked: dict[int, tuple[Fields, list[int]]] = {}

        @classmethod
        def validate_params(cls, sampling_params: Any) -> None:
            """Refuse, before it is begun, a request whose fields cannot be read; `ConfigError` is a ValueError."""
            cls._read(sampling_params)

        @classmethod
        def _read(cls, params: Any) -> Fields | None:
            names = [field.name for field in dataclasses.fields(cls.settings)]
            given: Mapping[str, Any] = getattr(params, "extra_args", None) or {}
            mine = {name: given[name] for name in names if name in given}
            return cls.settings.from_dict(mine) if mine else None

        @abstractmethod
        def change(
            self,
            logits: Float[Tensor, "rows vocab"],
            rows: Bool[Tensor, "rows"],
            first: Bool[Tensor, "rows"],
            settings: Any,
        ) -> Float[Tensor, "rows vocab"]:
            """New logits of the rows marked, those of all others as they are; `first` marks first new tokens."""

        def is_argmax_invariant(self) -> bool:
            """Never: what leaves the likeliest token alone would else be applied after the temperature."""
            return False

        def add_request(self, req_idx: int, sampling_params: Any) -> bool:
            """The newer runner's: a slot is taken."""
            self._put(req_idx, sampling_params, [])
            return req_idx in self._asked

        def update_state(self, batch_update: Any) -> None:
            """The older runner's: requests go, come and move between rows, in this order."""
            if batch_update is None:
                return
            for row in batch_update.removed:
                self._asked.pop(row, None)
            for row, params, _, said in batch_update.added:
                self._put(row, params, said)
            for start, end, way in batch_update.moved:
                moved, met = self._asked.pop(start, None), self._asked.pop(end, None)
                if moved is not None:
                    self._asked[end] = moved
                if met is not None and way == MoveDirectionality.SWAP:
                    self._asked[start] = met

        def apply(self, logits: Float[Tensor, "rows vocab"], ctx: Any = None) -> Float[Tensor, "rows vocab"]:
            """The logits of a step; `ctx` is the newer runner's, and says whose each row is."""
            if not self._asked:
                return logits
            if ctx is None:
                owners = torch.arange(len(logits), device=logits.device)
                begun = torch.tensor([row in self._asked and not self._asked[row][1] for row in range(len(logits))])
                first = begun.to(logits.device)
            else:
                owners = ctx.expanded_idx_mapping.long()
                first = ctx.pos + 1 == torch.from_numpy(cast(Any, self._prompts).np).to(logits.device)[owners]
            alike: dict[Fields, list[int]] = {}
            for owner, (settings, _) in self._asked.items():
                alike.setdefault(settings, []).append(owner)
            for settings, mine in alike.items():
                rows = torch.isin(owners, torch.tensor(mine, device=logits.device))
                logits = self.change(logits, rows, rows & first, settings)
            return logits

        def _put(self, place: int, params: Any, said: list[int]) -> None:
            self._asked.pop(place, None)
            settings = self._read(params)
            if settings is not None:
                self._asked[place] = (settings, said)

    class ShiftNo(OfRequests):
        """A constant on the logits of "no", at an answer's first token: `shift` and `no_tokens` of a request."""

        settings = Shift

        def change(
            self,
            logits: Float[Tensor, "rows vocab"],
            rows: Bool[Tensor, "rows"],
            first: Bool[Tensor, "rows"],
            settings: Shift,
        ) -> Float[Tensor, "rows vocab"]:
            tokens = sorted({token for token in settings.no_tokens if token < logits.shape[1]})
            logits[:, tokens] += settings.shift * first[:, None]
            return logits

    class PlausibleTokens(OfRequests):
        """Tokens that the model itself finds implausible are banned: `plausibility` of a request."""

        settings = Constraint

        def change(
            self,
            logits: Float[Tensor, "rows vocab"],
            rows: Bool[Tensor, "rows"],
            first: Bool[Tensor, "rows"],
            settings: Constraint,
        ) -> Float[Tensor, "rows vocab"]:
            banned = rows[:, None] & ~plausible_tokens(logits, settings.plausibility)
            return logits.masked_fill_(banned, float("-inf"))

    return ShiftNo, PlausibleTokens
