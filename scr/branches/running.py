"""A branch that runs beside `generate`: fed the tokens that were chosen there, with a KV cache of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache

from .._hooks import (
    PIXELS,
    Attending,
    AttentionPlan,
    Begun,
    attending,
    beside_generate,
    dispatcher,
    encode_images,
    find_family,
    image_tokens,
    prompt_positions,
    unwrap,
)
from ..errors import ConfigError
from ..perturb import perturb_encoded, perturb_inputs
from .branch import Branch


class RunningBranch:
    """One branch of one `generate`: says what would come next after the tokens that were chosen there.

    A logits processor is not told which beam became which. A row's past is found by its tokens: among the rows of its
    own prompt, the one whose tokens it continues. Rows with equal tokens have equal states, so that either will do.

    Attributes:
        forwards: how many forwards it has run.
        plan: its part in the attention of its rows, once it has begun; None if it sees all that there is to see.
    """

    def __init__(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        branch: Branch | None = None,
        encoded: Mapping[str, Any] | None = None,
    ) -> None:
        """Nothing runs yet.

        Args:
            model: a model of a supported family, or a wrapper around one.
            inputs: the processor's, as given to `generate`.
            branch: what differs; by default nothing.
            encoded: `mm_encoder_outputs` of the inputs, if they are known: a perturbation of features then needs no
                second vision pass.

        Raises:
            ConfigError: if there are no `input_ids`, or no pixels for a perturbation of them.
        """
        if inputs.get("input_ids") is None:
            raise ConfigError(
                f"a prompt without ids: got inputs {sorted(inputs)}; expected `input_ids` among them. Pass what the "
                "processor returns."
            )
        self._model, self._branch, self._encoded = unwrap(model)[0], branch or Branch(), encoded
        self._given, self._inputs = inputs["input_ids"], dict(inputs)
        self.plan: AttentionPlan | None = None
        self._tokens: Int[Tensor, "rows seen"] | None = None
        self._last: Float[Tensor, "rows vocab"]
        self._cache: Cache | None = None
        self._copies = 1
        self.forwards = 0
        if self._branch.image is not None and self._branch.image.acts_on == "pixels":
            if all(inputs.get(name) is None for name in PIXELS.values()):
                raise ConfigError(
                    f"no pixels to corrupt: got inputs {sorted(inputs)}; expected `pixel_values` or "
                    "`pixel_values_videos`. Pass what the processor returns, or corrupt features."
                )
            self._inputs = perturb_inputs(self._model, self._inputs, self._branch.image)
        if self._branch.prompt is not None:
            self._inputs = self._branch.prompt(self._model, self._inputs)

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
        new = tokens[:, seen:]
        # What a token may see is settled when it comes.
        for step in new.split(1 if self.plan is not None else max(1, new.shape[1]), dim=1) if new.shape[1] else ():
            self._step(step)
        self._tokens = tokens
        return self._last

    def hand_over(self) -> Begun:
        """The keys and values after what it has seen, for somebody who goes on in its place; see `note`."""
        begun = Begun(self._own_cache, self._mask, self._positions)
        self._cache = None
        return begun

    def note(self, tokens: Int[Tensor, "rows length"], logits: Float[Tensor, "rows vocab"]) -> None:
        """Told what it would have said after `tokens`, by whoever has its cache."""
        self._tokens, self._last = tokens, logits

    def _prefill(self, tokens: Tensor) -> None:
        given = self._given.to(tokens.device)
        copies, length = len(tokens) // len(given), given.shape[1]
        if len(tokens) % len(given) or not torch.equal(tokens[:, :length], given.repeat_interleave(copies, dim=0)):
            raise ConfigError(
                f"a batch that differs from the inputs given: got tokens {tuple(tokens.shape)}; expected them to begin "
                f"with the prompts {tuple(given.shape)} of the inputs. Make a processor for each call of `generate`, "
                "from the inputs of that call."
            )
        inputs = self._with_features()
        prompt, mask, positions = inputs["input_ids"], inputs.get("attention_mask"), inputs.get("position_ids")
        if positions is None:
            positions = prompt_positions(self._model, inputs)
        self._mask = torch.ones_like(prompt) if mask is None else mask
        if self._branch.sees is not None:
            self.plan = self._branch.sees.start(image_tokens(self._model, inputs), self._mask.bool())
        output = self._forward(**{**inputs, "position_ids": positions})
        self._positions, self._cache, self._last = positions[..., -1:], output.past_key_values, output.logits[:, -1]
        if copies > 1:
            # `batch_repeat_interleave` knows keys and values alone, and no states of linear attention.
            self._own_cache.reorder_cache(cast(Any, torch.arange(len(given)).repeat_interleave(copies)))
            self._mask, self._last = (value.repeat_interleave(copies, dim=0) for value in (self._mask, self._last))
            # M-RoPE's have an axis before the batch.
            self._positions = self._positions.repeat_interleave(copies, dim=self._positions.ndim - 2)
        self._tokens, self._copies = given.repeat_interleave(copies, dim=0), copies

    def _with_features(self) -> dict[str, Any]:
        image = self._branch.image
        if image is None or image.acts_on != "features":
            return self._inputs
        own = encode_images(self._model, self._inputs, self._encoded)
        noisy = perturb_encoded(self._model, self._inputs, own["mm_encoder_outputs"], image)
        return {**own, "mm_encoder_outputs": noisy}

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
        inputs["position_ids"] = inputs["position_ids"] + find_family(self._model).first_position
        plans = [] if self.plan is None else [Attending(slice(None), self.plan)]
        edited = self._branch.edited
        with beside_generate(), dispatcher(self._model).paused(not edited), attending(self._model, plans):
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
