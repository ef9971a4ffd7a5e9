"""Weights that accelerate keeps on the CPU or on disk, and brings to a layer only while it computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def execution_device(module: nn.Module) -> torch.device | None:
    """Where an offloaded layer computes; None for one whose weights lie where they are used."""
    hook = _offloading_hook(module)
    return None if hook is None else torch.device(hook.execution_device)


@contextlib.contextmanager
def weights_at_hand(module: nn.Module) -> Iterator[None]:
    """A module's own weights at the device where it computes, for as long as the context lasts."""
    hook = _offloading_hook(module)
    if hook is None:
        yield
        return
    try:
        hook.pre_forward(module)
        yield
    finally:
        hook.post_forward(module, None)


def is_offloaded(model: nn.Module) -> bool:
    """Whether any of a model's weights are elsewhere while it does not compute."""
    return any(execution_device(module) is not None for module in model.modules())


def _offloading_hook(module: nn.Module) -> Any:
    """The accelerate hook that brings a module's own weights; None without one."""
    hook = getattr(module, "_hf_hook", None)
    # Several hooks on one module are wrapped in one that has them in a list.
    for one in getattr(hook, "hooks", [hook]):
        if getattr(one, "offload", False) and getattr(one, "weights_map", None) is not None:
            return one
    return None
