"""A second run of a prompt beside `generate`, such as one with a corrupted image, with a KV cache of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache

from ._hooks import beside_generate, dispatcher, prompt_positions, unwrap
from .errors import ConfigError


class Branch:
    """One branch of one `generate`: it is fed the tokens that were chosen there, and says what would come next.

    A logits processor is not told which beam became which. A row's past is found by its tokens: among the rows of its
    own prompt, the one whose tokens it continues. Rows with equal tokens have equal states, so that either will do.

    Attributes:
        forwards: how many forwards it has run.
    """

    def __init__(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        edited: bool = True,
        prepare: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    ) -> None:
        """Nothing runs yet.

        Args:
            model: a model of a supported family, or a wrapper around one.
            inputs: the processor's, as given to `generate`, with the image of this branch.
            edited: whether methods that act on prefills, such as SCR, edit this branch too.
            prepare: what is made of the inputs just before they are used.

        Raises:
            ConfigError: if there are no `input_ids`.
        """
        if inputs.get("input_ids") is None:
            raise ConfigError(
                f"a prompt without ids: got inputs {sorted(inputs)}; expected `input_ids` among them. Pass what the "
                "processor returns."
            )
        self._model, self._inputs, self._edited = unwrap(model)[0], dict(inputs), edited
        self._prepare = prepare
        self._tokens: Int[Tensor, "rows seen"] | None = None
        self._last: Float[Tensor, "rows vocab"]
        self._cache: Cache | None = None
        self._copies = 1
        self.forwards = 0

    @torch.no_grad()
    def logits(self, tokens: Int[Tensor, "rows length"]) -> Float[Tensor, "rows vocab"]:
        """What this branch says after `tokens`: prompt and all that was chosen so far, as a logits processor gets them.

        Steps may be left out: the next call catches up.

        Raises:
            ConfigError: if they do not go on from the prompt, or from what was given before.
        """
        if tokens is self._tokens:  # noted just now
            return self._last
        if self._tokens is None:
            self._prefill(tokens)
        assert self._tokens is not None
        parents = self._parents(tokens)
        seen = self._tokens.shape[1]
        if not torch.equal(parents, torch.arange(len(parents), device=parents.device)):
            self._own_cache.reorder_cache(cast(Any, parents))
            self._last = self._last[parents]
        if tokens.shape[1] > seen:
            self._step(tokens[:, seen:])
        self._tokens = tokens
        return self._last

    def give_up_cache(self) -> Cache:
        """The keys and values after what it has seen, for somebody who goes on in its place; see `note`."""
        cache, self._cache = self._own_cache, None
        return cache

    def note(self, tokens: Int[Tensor, "rows length"], logits: Float[Tensor, "rows vocab"]) -> None:
        """Told what it would have said after `tokens`, by whoever has its cache."""
        self._tokens, self._last = tokens, logits

    def _prefill(self, tokens: Tensor) -> None:
        prompt = self._inputs["input_ids"].to(tokens.device)
        copies, length = len(tokens) // len(prompt), prompt.shape[1]
        if len(tokens) % len(prompt) or not torch.equal(tokens[:, :length], prompt.repeat_interleave(copies, dim=0)):
            raise ConfigError(
                f"a batch that differs from the inputs given: got tokens {tuple(tokens.shape)}; expected them to begin "
                f"with the prompts {tuple(prompt.shape)} of the inputs. Make a processor for each call of `generate`, "
                "from the inputs of that call."
            )
        positions = self._inputs.get("position_ids")
        if positions is None:
            positions = prompt_positions(self._model, self._inputs)
        output = self._forward(**{**self._prepare(self._inputs), "position_ids": positions})
        mask = self._inputs.get("attention_mask")
        self._mask = torch.ones_like(prompt) if mask is None else mask
        self._positions, self._cache, self._last = positions[..., -1:], output.past_key_values, output.logits[:, -1]
        if copies > 1:
            self._own_cache.batch_repeat_interleave(copies)
            self._mask, self._last = (value.repeat_interleave(copies, dim=0) for value in (self._mask, self._last))
            # M-RoPE's have an axis before the batch.
            self._positions = self._positions.repeat_interleave(copies, dim=self._positions.ndim - 2)
        self._tokens, self._copies = prompt.repeat_interleave(copies, dim=0), copies

    def _step(self, new: Tensor) -> None:
        count = new.shape[1]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(new), count)], dim=1)
        positions = self._positions + torch.arange(1, count + 1, device=self._positions.device)
        output = self._forward(
            input_ids=new, attention_mask=self._mask, position_ids=positions, past_key_values=self._own_cache
        )
        self._positions, self._last = positions[..., -1:], output.logits[:, -1]

    @property
    def _own_cache(self) -> Cache:
        if self._cache is None:
            raise ConfigError(
                "a branch that has given up its cache: got tokens that nobody noted; expected none. Make a new "
                "processor for each call of `generate`."
            )
        return self._cache

    def _forward(self, **inputs: Any) -> Any:
        self.forwards += 1
        with beside_generate(), dispatcher(self._model).paused(not self._edited):
            return self._model(**inputs, use_cache=True, logits_to_keep=1)

    def _parents(self, tokens: Tensor) -> Int[Tensor, "rows"]:
        """For each row, which of the rows before it continues."""
        before = self._tokens
        assert before is not None
        rows, seen = before.shape
        if tokens.shape[0] == rows and tokens.shape[1] >= seen:
            groups = torch.arange(rows, device=tokens.device) // self._copies
            same = (tokens[:, None, :seen] == before[None]).all(dim=-1) & (groups[:, None] == groups)
            # Itself where it can be: then nothing needs to move.
            same = same.int() + torch.eye(rows, device=tokens.device, dtype=torch.int) * same
            if same.any(dim=1).all():
                return same.argmax(dim=1)
        raise ConfigError(
            f"tokens that do not go on from those before: got {tuple(tokens.shape)} after {tuple(before.shape)}; "
            "expected the same rows, continued. Make a new processor for each call of `generate`."
        )
