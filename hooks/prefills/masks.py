"""Which keys a query may see: attention masks in every form that transformers hands to an attention function.

4-D tensors, boolean or additive, under sdpa and eager attention; a BlockMask under flex; and what flash kernels take: a
2-D padding mask or None, with causality and a sliding window left to the kernel. `None` is also what sdpa gets where
plain causality is all there is to say.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_mask

from ..errors import UnsupportedModelError


def masked(
    scores: Float[Tensor, "batch heads rows keys"],
    mask: Any,
    rows: Int[Tensor, "batch rows"],
    first: int,
    window: int | None = None,
    causal: bool = True,
    start: int = 0,
) -> Float[Tensor, "batch heads rows keys"]:
    """Attention scores of some query rows, with what they may not see masked out.

    Args:
        scores: scaled products of the queries with all keys.
        mask: what the attention function got for its whole forward.
        rows: token index, in this forward, of the queries.
        first: key column of this forward's first token.
        window: how many tokens a query sees, itself included; None for all. Only where `mask` leaves it to the kernel.
        causal: what the kernel would take for `is_causal` where `mask` leaves it to the kernel.
        start: row of the forward's batch, for which `mask` was made, that is the first of `scores`.

    Raises:
        UnsupportedModelError: if the mask is of another form, or is left to a kernel that is not causal.
    """
    batch, keys = len(scores), scores.shape[3]
    if isinstance(mask, Tensor) and len(mask) > 1:
        mask = mask[start : start + batch]
    if isinstance(mask, Tensor) and mask.ndim == 4:
        mask = mask.expand(batch, -1, -1, -1)[..., :keys]
        picked = mask.gather(2, rows[:, None, :, None].expand(-1, mask.shape[1], -1, keys))
        return scores.masked_fill(~picked, -torch.inf) if picked.dtype == torch.bool else scores + picked.float()
    if isinstance(mask, BlockMask):
        visible = _block_rows(mask, rows, keys, start)
    elif mask is None or _is_padding(mask):
        if not causal:
            raise UnsupportedModelError(
                "attention that is not causal, without a mask that says what it sees: got is_causal=False with "
                f"{_described(mask)}; expected causal attention or a 4-D mask. Load the model with "
                "attn_implementation='sdpa'."
            )
        visible = _causal_rows(mask, rows, first, window, keys)
    else:
        raise UnsupportedModelError(
            f"attention mask that the diagnostic cannot read: got {_described(mask)}; expected a 4-D tensor, a 2-D "
            "boolean or integer one, a BlockMask or None. Load the model with attn_implementation='sdpa' or 'eager'."
        )
    return scores.masked_fill(~visible, -torch.inf)


def sees_itself(mask: Any, batch: int, seq: int, first: int) -> Bool[Tensor, "batch seq"]:
    """Which tokens of a forward may see their own key: under any causal mask, sliding or not, all but padding.

    Args:
        mask: a 4-D tensor or BlockMask for the whole forward.
        batch: rows of the forward; the mask may have a single one for all.
        seq: tokens of the forward.
        first: key column of its first token.
    """
    if isinstance(mask, BlockMask):

        def itself(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return mask.mask_mod(row, head, query, query + first)

        return create_mask(itself, batch, 1, seq, 1, _device(mask))[:, 0, :, 0]
    visible = mask[:, 0, :, first : first + seq].diagonal(dim1=1, dim2=2).expand(batch, -1)
    return visible if visible.dtype == torch.bool else visible == 0


def _block_rows(mask: BlockMask, rows: Tensor, keys: int, start: int) -> Bool[Tensor, "batch heads rows keys"]:
    def picked(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return mask.mask_mod(row + start, head, rows[row, query], key)

    return create_mask(picked, rows.shape[0], mask.shape[1], rows.shape[1], keys, rows.device)


def _causal_rows(
    padding: Tensor | None, rows: Tensor, first: int, window: int | None, keys: int
) -> Bool[Tensor, "batch 1 rows keys"]:
    columns = torch.arange(keys, device=rows.device)
    own = rows + first
    visible = columns <= own[:, :, None]
    order = columns.expand(len(rows), -1)
    if padding is not None:
        # It ends where the tokens end; a static cache has empty keys after them.
        real = torch.nn.functional.pad(padding.bool(), (0, keys - padding.shape[1])).expand(len(rows), -1)
        visible = visible & real[:, None]
        # A flash kernel gets the rows without their padding, so that its window counts real tokens.
        order = real.cumsum(dim=1)
    if window is not None:
        visible = visible & (order.gather(1, own)[:, :, None] - order[:, None] < window)
    return visible[:, None]


def _is_padding(mask: Any) -> bool:
    # A 2-D float might be additive, as torch's own attention functions take it: not for us to guess.
    return isinstance(mask, Tensor) and mask.ndim == 2 and not mask.is_floating_point()


def _described(mask: Any) -> str:
    if not isinstance(mask, Tensor):
        return "no mask" if mask is None else type(mask).__name__
    return f"a {mask.ndim}-D mask of {str(mask.dtype).removeprefix('torch.')}, {tuple(mask.shape)}"


def _device(mask: BlockMask) -> torch.device:
    return mask.kv_num_blocks.device
