"""Decoding in a static cache, eager and compiled (CUDA graphs), beside a cache that grows: the tokens, and the time."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.utils import counters
from transformers import CompileConfig

from ..overhead.measure import Method, Patched, measure
from ..overhead.table import VANILLA
from .bench import Bench, Row, attempt

_METHODS = (VANILLA, "scr", "purified")


def measure_compiled(bench: Bench) -> list[Row]:
    """A line for each method and way to decode. The prefill under a patch is never compiled; the tokens after it are.

    On a CPU torch records the graphs and runs them uncompiled: the mechanics, and no faster.
    """
    # Another backend has no mode. Only on a GPU is a compiled loop transformers' own default.
    settings = CompileConfig() if bench.on_gpu else CompileConfig(backend="eager", mode=None)  # type: ignore[arg-type]
    settings._compile_all_devices = True  # type: ignore[assignment]
    ways: dict[str, Mapping[str, Any]] = {
        "growing cache": {},
        "static cache": {"cache_implementation": "static", "disable_compile": True},
        "static cache, compiled": {"cache_implementation": "static", "compile_config": settings},
    }
    workload, rows = bench.workload(), []
    for name in _METHODS:
        # The overhead's own vanilla times the decoder by hooks, which would be in the graphs.
        method = Method(workload) if name == VANILLA else Patched(workload, name)
        with method.applied():
            expected = _tokens(bench, method)
        for way, options in ways.items():
            line = {"method": name, "decoding": way}
            rows.append(attempt(line, functools.partial(_decoded, bench, method, options, expected)))
    return rows


def _decoded(bench: Bench, method: Method, options: Mapping[str, Any], expected: Tensor) -> Row:
    torch.compiler.reset()
    counters.clear()
    before = method.model.generation_config
    settings = type(before).from_dict({**before.to_dict(), **options})
    settings.compile_config = options.get("compile_config")
    method.model.generation_config = settings
    try:
        with method.applied():
            found = _tokens(bench, method)  # compiles
            first = counters["stats"]["unique_graphs"]
            timed = [measure(method, bench.tokens) for _ in range(bench.rounds)]
    finally:
        method.model.generation_config = before
    return {
        "graphs": first,
        "more while timed": counters["stats"]["unique_graphs"] - first,
        "prefill ms": statistics.median(run.token_ms[0] for run in timed),
        "ms per later token": statistics.median(run.per_token for run in timed),
        "same tokens %": 100 * float((found == expected).float().mean()),
    }


def _tokens(bench: Bench, method: Method) -> Tensor:
    """The new ones."""
    sequences: Tensor = method.generate(max_new_tokens=bench.tokens, do_sample=False)
    return sequences[:, method.workload.inputs["input_ids"].shape[1] :]
