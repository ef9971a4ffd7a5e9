"""Several processes that train one adapter: `torchrun` or `accelerate launch`; alone without either."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed
from torch.nn import Parameter


@dataclass(frozen=True)
class Team:
    """This process's place among those of the command.

    Attributes:
        rank: its number; the first, 0, writes files and prints.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether it writes files and prints."""
        return self.rank == 0

    def sum_gradients(self, parameters: Iterable[Parameter]) -> None:
        """Give every process the sum of all gradients; one that has none counts as 0."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            distributed.all_reduce(parameter.grad)

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in the order of their numbers."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values


@contextlib.contextmanager
def join_team() -> Iterator[Team]:
    """The team that the launcher's variables WORLD_SIZE and RANK describe, for as long as the context lasts."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team()
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # Objects are gathered as bytes of the CPU, gradients where they are.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    try:
        yield Team(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
