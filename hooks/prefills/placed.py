"""Index tensors that are made on the CPU and used on whatever device a decoder block lies."""

from __future__ import annotations

import torch
from torch import Tensor


class Placed:
    """Tensors, and their copies on the devices that have asked for them.

    Each copy is made once, and not once per block: a copy to a GPU makes the host wait for all that it has queued.
    """

    def __init__(self, *tensors: Tensor) -> None:
        """Hold `tensors`, on the CPU."""
        self._tensors = tensors
        self._copies: dict[torch.device, tuple[Tensor, ...]] = {}

    def on(self, device: torch.device) -> tuple[Tensor, ...]:
        """The tensors on `device`, in the order given."""
        if device not in self._copies:
            self._copies[device] = tuple(tensor.to(device) for tensor in self._tensors)
        return self._copies[device]
