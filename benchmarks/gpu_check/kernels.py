"""Every attention kernel that is here, beside torch's own choice: same plans, same tokens, and its time."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager

from torch.nn.attention import SDPBackend, sdpa_kernel

from scr.errors import ConfigError, MissingPackageError

from ..overhead.models import ATTENTION, Workload
from .agreement import Reading, agreement, read
from .bench import Bench, Row, attempt

_OF_GPUS = ("flash_attention_2", "flash_attention_3", "flex_attention")
_IMPLEMENTATIONS = ("eager", ATTENTION, *_OF_GPUS)
_BACKENDS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}

_NO_KERNEL = ("No available kernel", "No viable backend")  # torch's words, on a GPU and on a CPU


def measure_kernels(bench: Bench) -> list[Row]:
    """A line for each of transformers' implementations, and for each backend of torch's sdpa.

    All read the same model in the scale's own format under SCR, and are compared with sdpa as torch chooses.
    """
    workload = bench.workload()
    reference = read(workload.model, workload.inputs)

    def under(implementation: str, backend: Callable[[], AbstractContextManager[object]]) -> Row:
        found = _read(bench, workload, implementation, backend)
        return {"prefill ms": found.milliseconds, **agreement(found, reference)}

    rows = []
    for name in _IMPLEMENTATIONS:
        rows.append(attempt({"kernel": name}, functools.partial(under, name, contextlib.nullcontext)))
    for name, one in _BACKENDS.items():
        backend = functools.partial(sdpa_kernel, one)
        rows.append(attempt({"kernel": f"{ATTENTION}: {name}"}, functools.partial(under, ATTENTION, backend)))
    return rows


def _read(
    bench: Bench, workload: Workload, implementation: str, backend: Callable[[], AbstractContextManager[object]]
) -> Reading:
    if implementation in _OF_GPUS and not bench.on_gpu:
        raise ConfigError(f"{implementation} is a GPU's: got {bench.device}; expected a GPU. Run it on one.")
    try:
        workload.model.set_attn_implementation(implementation)
    except (ImportError, ValueError) as error:  # transformers' words for a package or a GPU that is not there
        raise MissingPackageError(f"transformers cannot use {implementation}: {error}") from error
    try:
        with backend():
            return read(workload.model, workload.inputs, timed=bench.rounds)
    except RuntimeError as error:
        if not any(words in str(error) for words in _NO_KERNEL):
            raise
        raise ConfigError(f"torch has no such kernel for these tensors here: {error}") from error
    finally:
        workload.model.set_attn_implementation(ATTENTION)
