"""Draw each sample's tokens from a random state of its own, whatever batch it is in."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

VERSION = 2
"""Raised when sampled answers fall another way; part of a sampled run's identity. 1 drew for a batch as a whole."""


@contextlib.contextmanager
def sampling(seed: int, names: Sequence[str], device: torch.device) -> Iterator[None]:
    """Let every draw of tokens inside be a function of the seed and of the row's own name.

    What else draws, such as the acceptance of an assistant's tokens, depends on all names. The process's own random
    state is put back.

    Args:
        seed: of the run.
        names: one per prompt of the batch; beams of a prompt are rows beside each other.
        device: where is drawn.
    """
    generators = [torch.Generator(device).manual_seed(_key(seed, name)) for name in names]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), _OwnDraws(generators):
        torch.manual_seed(_key(seed, *names))
        yield


class _OwnDraws(TorchFunctionMode):
    """`torch.multinomial`, with which every loop of `generate` draws, takes each row's generator."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self._generators = generators

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.multinomial:
            return func(*args, **kwargs)
        return self._drawn(*args, **kwargs)

    def _drawn(self, input: Tensor, num_samples: int, **options: Any) -> Tensor:
        share = len(input) // len(self._generators)
        rows = zip(input.split(share), self._generators, strict=True)
        return torch.cat([torch.multinomial(one, num_samples, **{**options, "generator": own}) for one, own in rows])


def _key(seed: int, *names: str) -> int:
    digest = hashlib.sha256("\n".join([str(seed), *names]).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1
