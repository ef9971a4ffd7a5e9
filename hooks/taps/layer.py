"""One block's attention in one forward, as a plan sees it: its own rows of the batch, whatever the kernel and mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..prefills.attention import highest_of_heads, over_all_heads, refuse_what_changes_attention, row_scores
from ..prefills.masks import masked

Output = Float[Tensor, "rows seq heads dim"]


@dataclass
class AttentionInputs:
    """What transformers hands to the attention function of one block, and where this forward's tokens lie in the cache.

    Attributes:
        module: the attention module.
        query: (batch, heads, seq, dim).
        key: (batch, key heads, keys, dim).
        value: likewise.
        mask: in any of the forms of `prefills.masks`.
        options: scaling, softcap, sliding_window, is_causal and what else the kernel gets.
        past: tokens before this forward's, padding included.
        first: key column of this forward's first token; less than `past` where a sliding cache has dropped the oldest.
    """

    module: Any
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Any
    options: dict[str, Any]
    past: int
    first: int


@dataclass
class LayerAttention:
    """What a plan may ask and do at one block.

    Queries are token indices within the forward, columns are those of the keys. Tokens are counted from the beginning
    of the prompt, as `generate` counts them: a plan need not know of caches, nor of what was put to the left of its
    rows so that they fit into a batch with longer ones.

    Attributes:
        layer: index of the block.
        rows: the plan's rows of the batch.
        pad: columns that were put to the left of its rows.
    """

    inputs: AttentionInputs
    rows: slice
    pad: int = 0
    hidden: Bool[Tensor, "rows keys"] | None = None
    edits: list[Callable[[Output], Output]] = field(default_factory=list)

    @property
    def layer(self) -> int:
        """Index of the block."""
        return self.inputs.module.layer_idx

    @property
    def device(self) -> torch.device:
        """Where the block lies."""
        return self.inputs.query.device

    @property
    def queries(self) -> int:
        """Tokens of this forward."""
        return self.inputs.query.shape[2]

    @property
    def keys(self) -> int:
        """Key columns, the empty ones of a static cache among them."""
        return self.inputs.key.shape[2]

    @property
    def tokens(self) -> int:
        """Tokens from the beginning of the prompt to the end of this forward."""
        return self.inputs.past + self.queries - self.pad

    def last_queries(self, since: int | None = None) -> Int[Tensor, "rows queries"]:
        """The last token of each row, or all tokens of this forward from the prompt's token `since` on."""
        start = self.queries - 1 if since is None else max(0, since + self.pad - self.inputs.past)
        rows = len(self.inputs.query[self.rows])
        return torch.arange(start, self.queries, device=self.device).expand(rows, -1)

    def columns(self, tokens: Bool[Tensor, "rows tokens"]) -> Bool[Tensor, "rows keys"]:
        """Which key columns hold these tokens, which are counted from the beginning of the prompt."""
        return _shifted(tokens.to(self.device), self._shift, self.keys, False)

    def by_token(self, columns: Float[Tensor, "rows keys"]) -> Float[Tensor, "rows tokens"]:
        """Values of key columns as values of tokens; 0 for a token that a sliding cache has dropped."""
        return _shifted(columns, -self._shift, self.tokens, 0)

    @property
    def _shift(self) -> int:
        """From a token to its column."""
        return self.pad - (self.inputs.past - self.inputs.first)

    def scores(self, queries: Int[Tensor, "rows queries"]) -> Float[Tensor, "rows heads queries keys"]:
        """Scaled products with all keys, as they come before mask and softmax; float32."""
        given = self.inputs
        refuse_what_changes_attention(given.options)
        with torch.autocast(self.device.type, enabled=False):
            return row_scores(given.query[self.rows], given.key[self.rows], queries, given.options)

    def weights(
        self, queries: Int[Tensor, "rows queries"], scores: Float[Tensor, "rows heads queries keys"] | None = None
    ) -> Float[Tensor, "rows heads queries keys"]:
        """Softmax of `scores`, by default the model's own, over the keys that each query may see; float32.

        What plans hide at this block counts as unseen, too.
        """
        given = self.inputs
        scores = self.scores(queries) if scores is None else scores
        seen = masked(
            scores,
            given.mask,
            queries,
            given.first,
            given.options.get("sliding_window"),
            is_causal(given),
            self.rows.indices(len(given.query))[0],
        )
        if self.hidden is not None:
            seen = seen.masked_fill(self._hidden_from(queries), -torch.inf)
        return seen.softmax(dim=-1)

    def mean_over_heads(self, values: Float[Tensor, "rows heads *rest"]) -> Float[Tensor, "rows *rest"]:
        """The mean over all heads, those on other processes among them."""
        return over_all_heads(values.mean(dim=1), self.inputs.module, self.inputs.query.shape[1])

    def highest_over_heads(self, values: Float[Tensor, "rows heads *rest"]) -> Float[Tensor, "rows *rest"]:
        """The highest of all heads, those on other processes among them."""
        return highest_of_heads(values.amax(dim=1), self.inputs.module, self.inputs.query.shape[1])

    def hide(self, keys: Bool[Tensor, "rows keys"]) -> None:
        """Hide keys from every query of the forward but a key's own token."""
        self.hidden = keys if self.hidden is None else self.hidden | keys

    def rewrite(self, queries: Int[Tensor, "rows queries"], weights: Float[Tensor, "rows heads queries keys"]) -> None:
        """Give these queries what `weights` make of the values, in place of what the kernel gives them."""
        values = self.inputs.value[self.rows]
        with torch.autocast(self.device.type, enabled=False):
            folded = weights.reshape(len(values), values.shape[1], -1, weights.shape[3])
            new = (folded @ values.float()).reshape(*weights.shape[:3], values.shape[3]).transpose(1, 2)
        index = queries[:, :, None, None].expand(-1, -1, *new.shape[2:])
        self.then(lambda output: output.scatter(1, index, new.to(output.dtype)))

    def then(self, edit: Callable[[Output], Output]) -> None:
        """Change what the kernel gives these rows, of every head, before the output projection; out of place."""
        self.edits.append(edit)

    def _hidden_from(self, queries: Int[Tensor, "rows queries"]) -> Bool[Tensor, "rows 1 queries keys"]:
        assert self.hidden is not None
        own = torch.arange(self.keys, device=self.device) == (queries + self.inputs.first)[:, :, None]
        return (self.hidden[:, None] & ~own)[:, None]


def _shifted(values: Tensor, shift: int, length: int, filler: float | bool) -> Tensor:
    """(rows, length): `values` moved to the right by `shift`, to the left if it is negative."""
    moved = torch.nn.functional.pad(values[:, max(0, -shift) :], (max(0, shift), 0), value=filler)[:, :length]
    return torch.nn.functional.pad(moved, (0, length - moved.shape[1]), value=filler)


def is_causal(given: AttentionInputs) -> bool:
    """What a kernel takes for causality, where no mask says it."""
    said = given.options.get("is_causal")
    return bool(getattr(given.module, "is_causal", True) if said is None else said)
