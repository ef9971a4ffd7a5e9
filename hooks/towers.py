"""What a vision tower looks at: attention of its last block, recomputed from the very queries and keys, at any kernel.

No map of patches × patches is kept, and none is built where a class token tells.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from . import compat
from .installing.stack import HookStack
from .precision import exact

_COLLECTOR = "scr_collect_tower"
_QUERY_CHUNK = 256  # bounds what is in memory at once: heads × this × keys


@torch.no_grad()
def tower_salience(
    tower: Any, attention: nn.Module, tiles: Float[Tensor, "tiles 3 height width"]
) -> Float[Tensor, "tiles rows columns"]:
    """How much of the attention each patch of a tile gets, mean over heads; a tile's patches sum to 1 at most.

    From the token that pools the tile where the tower has one, else from its class token, else the mean over all
    patches.

    Args:
        tower: of CLIP's, SigLIP's or InternVL's kind, with a config that has a patch size.
        attention: the module of its last block.
        tiles: normalised pixels, of the size that the tower takes.
    """
    size = tower.config.patch_size
    patch_height, patch_width = (size, size) if isinstance(size, int) else size
    rows, columns = tiles.shape[-2] // patch_height, tiles.shape[-1] // patch_width
    pooling = getattr(getattr(tower, "head", None), "attention", None)

    def run() -> None:
        tower(tiles.to(tower.dtype))

    if pooling is not None:
        received = _pooled(pooling, run)
    else:
        (received,) = attention_received(attention, run, lambda keys: keys > rows * columns)
    return received[:, -rows * columns :].reshape(-1, rows, columns)


@torch.no_grad()
def attention_received(
    attention: nn.Module, run: Callable[[], object], has_class_token: Callable[[int], bool]
) -> list[Float[Tensor, "tiles keys"]]:
    """How much attention each key gets while `run()` runs, mean over heads, at each call of the attention function.

    Args:
        attention: the module whose attention is read.
        run: a forward.
        has_class_token: of how many keys one is a class token, the first: then its query alone counts, else all.
    """
    compat.register_attention(_COLLECTOR, _collect)
    seen: list[Tensor] = []

    def see(query: Tensor, key: Tensor, scaling: float) -> None:
        seen.append(_received(query[:, :, :1] if has_class_token(key.shape[2]) else query, key, scaling))

    with HookStack() as stack:
        config: Any = attention.config
        stack.attribute(attention, "config", compat.dispatching_config(config, _COLLECTOR))
        before, _LOCAL.see = _LOCAL.see, see
        try:
            run()
        finally:
            _LOCAL.see = before
    return seen


def _pooled(pooling: nn.Module, run: Callable[[], object]) -> Float[Tensor, "tiles patches"]:
    """What a pooling token's own attention, which is torch's, gives each patch."""
    caught: list[tuple[Any, ...]] = []
    thread = threading.get_ident()

    def catch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() == thread:
            caught.append(args)

    with HookStack() as stack:
        stack.forward_pre_hook(pooling, catch)
        run()
    return pooling(*caught[-1], need_weights=True)[1][:, 0].float()


def _received(query: Tensor, key: Tensor, scaling: float) -> Float[Tensor, "tiles keys"]:
    total = torch.zeros(len(key), key.shape[2], device=key.device, dtype=torch.float32)
    with exact(key.device):
        for chunk in query.split(_QUERY_CHUNK, dim=2):
            scores = (chunk @ key.transpose(2, 3)).float() * scaling
            total += scores.softmax(dim=-1).mean(dim=1).sum(dim=1)
    return total / query.shape[2]


class _Local(threading.local):
    see: Callable[[Tensor, Tensor, float], None] | None = None


_LOCAL = _Local()


def _collect(module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The attention function that transformers calls for the swapped module."""
    if _LOCAL.see is not None:
        scaling = kwargs["scaling"]
        _LOCAL.see(query, key, query.shape[-1] ** -0.5 if scaling is None else scaling)
    return compat.original_attention(module, _COLLECTOR)(query, key, value, *args, **kwargs)
