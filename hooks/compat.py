"""The private seams of transformers that we need, in one place, checked once at the first patch.

A release that moves one of the names checked here breaks with a sentence, and not somewhere inside a forward pass. The
other private seams are the cache layers' own attributes, in `cache.py`.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from jaxtyping import Int
from torch import Tensor, nn
from transformers import AttentionInterface, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.vision_utils import get_vision_window_index

from .errors import UnsupportedModelError

_ORIGINAL = "_scr_original_config"


@functools.cache
def check_transformers() -> None:
    """Check that this transformers has the seams used here.

    Raises:
        UnsupportedModelError: with the installed version and what is missing.
    """
    missing = [
        name
        for name, found in {
            "AttentionInterface.register": hasattr(AttentionInterface, "register"),
            "AttentionInterface.get_interface": hasattr(AttentionInterface, "get_interface"),
            "GenerationMixin._prepare_position_ids_for_generation": hasattr(
                GenerationMixin, "_prepare_position_ids_for_generation"
            ),
            "GenerationMixin._update_model_kwargs_for_generation": hasattr(
                GenerationMixin, "_update_model_kwargs_for_generation"
            ),
            "PreTrainedConfig._attn_implementation": hasattr(PreTrainedConfig, "_attn_implementation"),
        }.items()
        if not found
    ]
    if missing:
        raise UnsupportedModelError(
            f"transformers lacks {', '.join(missing)}: got version {transformers.__version__}; expected 5.23 or later. "
            "Install the versions of constraints.txt."
        )


def register_attention(name: str, attention: Callable[..., Any]) -> None:
    """Make `attention` known to transformers' attention dispatch under a name of our own (idempotent).

    Args:
        name: no part of it may read "flash", "sdpa", "flex" or "paged": transformers matches on those.
        attention: with the signature of transformers' attention functions.
    """
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, attention)


def dispatching_config(config: PreTrainedConfig, name: str) -> PreTrainedConfig:
    """A shallow copy of an attention module's config that dispatches to `name`, and remembers the original."""
    swapped = copy.copy(config)
    setattr(swapped, _ORIGINAL, config)
    # The public setter would also rewrite the sub-configurations, which the shallow copy shares with the model.
    swapped._attn_implementation_internal = name
    return swapped


def original_attention(module: nn.Module, name: str) -> Callable[..., Any]:
    """The attention function that `module` would have called had its config never been swapped for `name`'s.

    Flash attention looks in the module's config which of its kernels to load: it gets a twin with the original config,
    because the module itself may be in use by another thread.
    """
    original = _before(module, name)
    implementation = original._attn_implementation
    return functools.partial(
        ALL_ATTENTION_FUNCTIONS.get_interface(implementation, _eager_of(module)), _twin(module, original)
    )


def masked_attention(module: nn.Module, name: str, softcap: float | None) -> Callable[..., Any]:
    """As `original_attention`, or where that kernel takes no mask of four axes, or none of our making, one that does.

    Args:
        module: the attention module.
        name: as of `original_attention`.
        softcap: bound of the scores, which sdpa does not know.
    """
    original = _before(module, name)
    implementation = original._attn_implementation
    if implementation == "eager" or softcap is not None:
        return functools.partial(_eager_of(module), _twin(module, original))
    if implementation != "sdpa":
        original = dispatching_config(original, "sdpa")
    return functools.partial(ALL_ATTENTION_FUNCTIONS["sdpa"], _twin(module, original))


def _before(module: Any, name: str) -> Any:
    """A module's config as it was before it was first swapped for `name`'s."""
    # Another thread may have put the real config back between transformers' dispatch and this call.
    config = module.config
    while config._attn_implementation == name and hasattr(config, _ORIGINAL):
        config = getattr(config, _ORIGINAL)
    return config


def _twin(module: nn.Module, config: Any) -> nn.Module:
    attention_class: Any = type(module)
    twin = object.__new__(attention_class)
    vars(twin).update(vars(module), config=config)
    return twin


def _eager_of(module: nn.Module) -> Callable[..., Any]:
    attention_class: Any = type(module)
    return _eager_attention(attention_class)


@functools.cache
def _eager_attention(attention_class: type) -> Callable[..., Any]:
    for owner in attention_class.__mro__:
        place = sys.modules[owner.__module__]
        # Llama 4's vision tower has one of its own.
        names = ("vision_eager_attention_forward",) if "Vision" in owner.__name__ else ()
        for name in (*names, "eager_attention_forward"):
            if hasattr(place, name):
                return getattr(place, name)
    raise UnsupportedModelError(
        f"no eager attention beside the attention class: got {attention_class.__module__}.{attention_class.__name__}; "
        "expected a transformers model with `eager_attention_forward` in its module. Load it without remote code."
    )


def prompt_positions(model: PreTrainedModel, inputs: Mapping[str, Any]) -> Int[Tensor, "*axes batch seq"]:
    """The position ids that `generate` would make for a prompt, padding and M-RoPE included.

    Args:
        model: the model; what Qwen's keep of their last prompt stays as it was.
        inputs: the processor's, with `input_ids`.
    """
    state = vars(model.base_model)
    kept = state.get("rope_deltas")
    try:
        prepare: Any = model._prepare_position_ids_for_generation
        return prepare(inputs["input_ids"], dict(inputs))
    finally:
        if "rope_deltas" in state:
            state["rope_deltas"] = kept


def window_order(config: Any, grid: Int[Tensor, "images 3"]) -> Int[Tensor, "blocks"]:
    """Which block of merged patches comes at each place while Qwen2.5-VL's tower runs.

    Args:
        config: of the tower.
        grid: (time, height, width) of each image, in patches.
    """
    return get_vision_window_index(grid, config.spatial_merge_size, config.window_size, config.patch_size)[0]


def after_step(model: PreTrainedModel, outputs: Any, model_kwargs: dict[str, Any]) -> dict[str, Any]:
    """`generate`'s keyword arguments of the next forward: cache, mask, positions and token types one token further."""
    update: Any = model._update_model_kwargs_for_generation
    return update(outputs, model_kwargs, is_encoder_decoder=False)


def head_group(module: nn.Module, heads: int) -> Any:
    """The process group over which the heads of an attention module are spread, by transformers' tensor parallelism.

    Args:
        module: the attention module, of which this process holds a part.
        heads: how many heads that part has.

    Raises:
        UnsupportedModelError: if the parts cannot be brought together.
    """
    config: Any = module.config
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for mesh in {parameter.device_mesh for parameter in module.parameters() if hasattr(parameter, "device_mesh")}:
            if mesh.ndim > 1 and "tp" in (mesh.mesh_dim_names or ()):
                mesh = mesh["tp"]
            if mesh.ndim == 1 and mesh.size() * heads == config.num_attention_heads:
                return mesh.get_group()
    raise UnsupportedModelError(
        f"attention heads on other processes, which cannot be reached: got {heads} of {config.num_attention_heads} "
        "heads; expected all, or an equal share by DTensor weights on an initialised process group. Load the model "
        "with transformers' DistributedConfig(tp_size=...), or without tensor parallelism."
    )
