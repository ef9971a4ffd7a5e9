"""What every part measures on, and how a line of a table says that something could not be measured."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from scr import SCRError

from ..overhead.models import SHAPES, Workload, build_workload

Row = dict[str, Any]
"""A line of a part's table: heading → text, number, or None where there is nothing to say.

The first value names the line. A line that could not be measured has its name and `SKIPPED` → the reason.
"""
SKIPPED = "skipped"
REASONS = (SCRError, ImportError, torch.OutOfMemoryError)
"""What a machine may lack, or a method refuse; any other error is a fault of the part."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where and how large to measure.

    Attributes:
        device: a GPU, or the CPU for the mechanics alone.
        scale: one of `benchmarks.overhead.models.SCALES`.
        shape: a name of `benchmarks.overhead.models.SHAPES`.
        rounds: how often what is timed is timed.
        tokens: of the longer generations.
        pictures: of the lab that trained models are shown.
    """

    device: torch.device
    scale: str
    shape: str = "llava"
    rounds: int = 5
    tokens: int = 20
    pictures: int = 24

    @property
    def on_gpu(self) -> bool:
        """Whether there is one to measure on."""
        return self.device.type == "cuda"

    def workload(self, dtype: torch.dtype | None = None, batch: int = 1) -> Workload:
        """A model of the shape with random weights, the same at every call, and its prompts."""
        gc.collect()  # the one before, whose patch may have left it in a cycle
        return build_workload(SHAPES[self.shape], self.scale, self.device, batch, dtype)


def attempt(name: Row, measure: Callable[[], Row]) -> Row:
    """A line of a table, or the reason why there is none.

    Args:
        name: what the line begins with.
        measure: gives the rest of it.
    """
    try:
        return {**name, **measure()}
    except REASONS as error:
        return {**name, SKIPPED: reason(error)}


def reason(error: BaseException) -> str:
    """An error in one line of bounded length."""
    said = " ".join(str(error).split()) or type(error).__name__
    return f"memory is full: {said[:200]}" if isinstance(error, torch.OutOfMemoryError) else said[:300]
