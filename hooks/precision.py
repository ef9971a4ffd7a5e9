"""Float32 stays float32, whatever autocast the caller is in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

__all__ = ["exact"]


@contextlib.contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Autocast is off inside the `with`, in this thread and for this kind of device.

    Not `torch.autocast(..., enabled=False)`: an interrupt while that begins or ends leaves its depth raised for the
    rest of the process, after which no autocast empties its cache of rounded weights, and a training steps in place.
    This one touches the flag alone, only where it is set, and the caller's own autocast sets it anew when it ends.

    Args:
        device: of the tensors.
    """
    kind = device.type
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        yield
        return
    try:
        torch.set_autocast_enabled(kind, False)
        yield
    finally:
        torch.set_autocast_enabled(kind, True)
