"""Steer the first run, block by block, by the difference of what two other runs make of the same token."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from .._hooks import HookStack, find_family, hidden_of, is_beside, is_reading, when_idle, with_hidden
from ..errors import UnsupportedGenerationError
from .running import RunningBranch

Hidden = dict[int, Float[Tensor, "rows dim"]]
"""Block → the last token's hidden state after it."""


class Steering:
    """Of one `generate`: `h ← h + strength·(h_towards − h_away)` at the last token, after every block."""

    def __init__(
        self, branches: Sequence[RunningBranch], strength: float, rows: Bool[Tensor, "rows"], joined: bool
    ) -> None:
        """Nothing runs yet.

        Args:
            branches: towards which to steer, and away from which.
            strength: of the steering.
            rows: which prompts are steered.
            joined: whether the branches go on in the rows below the first run's, after their prefill.
        """
        self._branches, self._strength, self._steered, self._joined = branches, strength, rows, joined
        self._rows = 0
        self._noted: list[Hidden] = []
        self._noting: Hidden | None = None

    def follow(self, tokens: Int[Tensor, "rows length"]) -> None:
        """Let the branches see the tokens before the first run does, unless they run in the same forward.

        Args:
            tokens: prompt and answer so far; below the first run's rows there may be others.

        Raises:
            UnsupportedGenerationError: if the branches' blocks went by unseen.
        """
        if self._rows and self._joined:
            return
        self._rows = self._rows or len(tokens)
        self._noted = []
        for branch in self._branches:
            self._noting = {}
            try:
                branch.logits(tokens[: self._rows])
                if not self._noting:
                    raise UnsupportedGenerationError(
                        "steering saw no layers: got a forward that called no hook of a block; expected all of them. "
                        "Use the model without torch.compile."
                    )
                self._noted.append(self._noting)
            finally:
                self._noting = None

    def after(self, block: int, output: Any) -> Any:
        """A block's output, steered; None where it stays. In a branch's own forward its hidden state is noted."""
        hidden = hidden_of(output)
        if is_beside():
            if self._noting is not None:
                self._noting[block] = hidden[:, -1].detach()
            return None
        rows = self._rows
        if self._joined and len(hidden) == 3 * rows:
            towards, away = hidden[rows : 2 * rows, -1], hidden[2 * rows :, -1]
        else:
            towards, away = (self._repeated(noted[block]).to(hidden.device) for noted in self._noted)
        last = hidden[:rows, -1]
        moved = (last.float() + self._strength * (towards.float() - away.float())).to(last)
        steered = self._repeated(self._steered).to(hidden.device)[:, None]
        edited = hidden.clone()
        edited[:rows, -1] = torch.where(steered, moved, last)
        return with_hidden(output, edited)

    def _repeated(self, values: Tensor) -> Tensor:
        """Of each prompt's rows, those of its beams."""
        return values.repeat_interleave(self._rows // len(values), dim=0)


def let_steer(model: PreTrainedModel, current: Callable[[], Steering | None], stack: HookStack) -> None:
    """Let the `Steering` that `current` names for this thread act on the model, until `stack` is closed."""
    hooks = HookStack()
    inner: Any = model.prepare_inputs_for_generation
    stack.callback(when_idle, model, hooks.close)

    @functools.wraps(inner)
    def prepare(input_ids: Tensor, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        steering = None if is_beside() else current()
        if steering is not None:
            steering.follow(input_ids)
        return inner(input_ids, *args, **kwargs)

    def after(block: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        steering = None if is_reading() or torch.compiler.is_compiling() else current()
        return None if steering is None else steering.after(block, output)

    # Of all that `generate` calls at a step, this alone is given the whole rows, beams in their new order.
    hooks.attribute(model, "prepare_inputs_for_generation", prepare)
    for index, layer in enumerate(find_family(model).layers(model)):
        hooks.forward_hook(layer, functools.partial(after, index))
