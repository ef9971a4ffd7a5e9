"""Plans in bfloat16 and float16 beside those in float32: a random model of real size, and a trained small one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .agreement import agreement, read
from .bench import Bench, Row, attempt
from .trained import TRAINED, trained

_Make = Callable[[], tuple[PreTrainedModel, Mapping[str, Any]]]


def measure_precision(bench: Bench) -> list[Row]:
    """A line for each model, format and way to find the map.

    Random weights say what the arithmetic does at that size. How near to each other the patches of a picture rank, and
    so what a rounding changes, only trained weights say.
    """

    def random() -> tuple[PreTrainedModel, Mapping[str, Any]]:
        workload = bench.workload(torch.float32)
        return workload.model, workload.inputs

    models: dict[str, tuple[_Make, str]] = {
        f"{bench.shape}, {bench.scale}, random": (random, "untrained"),
        f"{TRAINED}, trained": (lambda: trained(bench), TRAINED),
    }
    rows = []
    for name, (make, predictor) in models.items():
        for dtype in (torch.bfloat16, torch.float16):
            for way, fields in (("scr", {}), ("scr_one_pass", {"predictor": predictor})):
                line = {"model": name, "format": str(dtype).removeprefix("torch."), "map": way}
                rows.append(attempt(line, functools.partial(_compared, make, dtype, way, fields)))
    return rows


def _compared(make: _Make, dtype: torch.dtype, way: str, fields: Mapping[str, Any]) -> Row:
    model, inputs = make()
    exact = read(model, inputs, way, **fields)
    round_parameters(model, dtype)
    rounded = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    return agreement(read(model, rounded, way, **fields), exact)


def round_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Round the parameters of a model, as loading it in that format would.

    Buffers stay: the frequencies of the positions are float32 in every format.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
