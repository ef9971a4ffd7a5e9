"""One block's attention in one forward, as a plan sees it: its own rows of the batch, whatever the kernel and mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import UnsupportedModelError
from ..precision import exact
from ..prefills.attention import highest_of_heads, over_all_heads, refuse_what_changes_attention, row_scores
from ..prefills.masks import masked

Output = Float[Tensor, "rows seq heads dim"]
Scores = Float[Tensor, "rows heads queries keys"]
_QUERY_CHUNK = 256  # bounds the memory of a long text: rows × heads × 256 × keys scores at a time


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


class _Rescored(NamedTuple):
    queries: Int[Tensor, "rows queries"]
    chosen: Bool[Tensor, "rows seq"]
    change: Callable[[Scores], Scores]


@dataclass
class LayerAttention:
    """What plans may ask and do at one block; those of the same rows share it, and each goes on from what others did.

    Queries are token indices within the forward, columns are those of the keys. Tokens are counted from the beginning
    of the prompt, as `generate` counts them: a plan need not know of caches, nor of what was put to the left of its
    rows so that they fit into a batch with longer ones.

    Attributes:
        inputs: of the whole forward.
        rows: the plan's rows of the batch.
        pad: columns that were put to the left of its rows.
    """

    inputs: AttentionInputs
    rows: slice
    pad: int = 0
    hidden: Bool[Tensor, "rows keys"] | None = None
    _rescored: list[_Rescored] = field(default_factory=list, init=False, repr=False)
    _edits: list[Callable[[Output], Output]] = field(default_factory=list, init=False, repr=False)

    @property
    def layer(self) -> int:
        """Index of the block."""
        return self.inputs.module.layer_idx

    @property
    def device(self) -> torch.device:
        """Where the block lies."""
        return self.inputs.query.device

    @property
    def batch(self) -> int:
        """How many rows they are."""
        start, end, _ = self.rows.indices(len(self.inputs.query))
        return end - start

    @property
    def queries(self) -> int:
        """Tokens of this forward."""
        return self.inputs.query.shape[2]

    @property
    def past(self) -> int:
        """Tokens from the beginning of the prompt to this forward."""
        return self.inputs.past - self.pad

    @property
    def keys(self) -> int:
        """Key columns, the empty ones of a static cache among them."""
        return self.inputs.key.shape[2]

    @property
    def tokens(self) -> int:
        """Tokens from the beginning of the prompt to the end of this forward."""
        return self.past + self.queries

    def last_queries(self, since: int | None = None) -> Int[Tensor, "rows queries"]:
        """The last token of each row, or all tokens of this forward from the prompt's token `since` on."""
        start = self.queries - 1 if since is None else min(max(0, since - self.past), self.queries)
        return torch.arange(start, self.queries, device=self.device).expand(self.batch, -1)

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

    def scores(self, queries: Int[Tensor, "rows queries"]) -> Scores:
        """Scaled products with all keys, as plans have changed them so far, before mask and softmax; float32."""
        given = self.inputs
        refuse_what_changes_attention(given.options)
        with exact(self.device):
            scores = row_scores(given.query[self.rows], given.key[self.rows], queries, given.options)
            for _, chosen, change in self._rescored:
                scores = torch.where(chosen.gather(1, queries)[:, None, :, None], change(scores), scores)
        return scores

    def weights(self, queries: Int[Tensor, "rows queries"]) -> Float[Tensor, "rows heads queries keys"]:
        """Softmax of `scores` over the keys that each query may see and no plan hides; float32."""
        given = self.inputs
        seen = masked(
            self.scores(queries),
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

    def mixed(self, weights: Float[Tensor, "rows heads queries keys"]) -> Output:
        """What weights make of the values, for each of their queries; float32."""
        values = self.inputs.value[self.rows]
        with exact(self.device):
            folded = weights.reshape(len(values), values.shape[1], -1, weights.shape[3])
            mixed = (folded @ values.float()).reshape(*weights.shape[:3], values.shape[3])
        return mixed.transpose(1, 2)

    def rescore(
        self,
        queries: Int[Tensor, "rows queries"],
        where: Bool[Tensor, "rows queries"],
        change: Callable[[Scores], Scores],
    ) -> None:
        """Change the scores of these queries, and by them what they get; all others keep what the kernel gives them.

        Args:
            queries: each at most once in a row.
            where: False for one that fills a short row up: it keeps the kernel's own, to the bit.
            change: makes new scores, before mask and softmax; called with those of any queries, each for itself.
        """
        chosen = torch.zeros(len(queries), self.queries, dtype=torch.bool, device=self.device)
        self._rescored.append(_Rescored(queries, chosen.scatter(1, queries, where), change))

    def then(self, edit: Callable[[Output], Output]) -> None:
        """Change what these rows get, of every head, before the output projection; out of place, after all scores."""
        self._edits.append(edit)

    def after_kernel(self, output: Output) -> Output:
        """What these rows get, after all that plans have asked for, in place of what the kernel gives them."""
        for rescored in self._rescored:
            for queries in rescored.queries.split(_QUERY_CHUNK, dim=1):
                new = self.mixed(self.weights(queries)).to(output.dtype)
                index = queries[:, :, None, None].expand_as(new)
                kept = rescored.chosen.gather(1, queries)[:, :, None, None]
                output = output.scatter(1, index, torch.where(kept, new, output.gather(1, index)))
        for edit in self._edits:
            output = edit(output)
        return output

    def require_all_heads(self) -> None:
        """Raise UnsupportedModelError if other processes compute some of the block's heads."""
        heads = self.inputs.query.shape[1]
        everywhere = getattr(self.inputs.module.config, "num_attention_heads", heads)
        if heads < everywhere:
            raise UnsupportedModelError(
                f"heads that are held against each other lie on other processes: got {heads} of {everywhere}; expected "
                "all of them. Load the model without tensor parallelism."
            )

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
