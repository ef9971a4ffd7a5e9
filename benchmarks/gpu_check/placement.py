"""A model that lies in two places, beside the same one in one: same plans, same tokens."""

from __future__ import annotations

import functools
import tempfile
from typing import Any

import torch
from accelerate import dispatch_model, infer_auto_device_map

import scr

from ..overhead.models import Workload
from .agreement import agreement, read
from .bench import Bench, Row, attempt

_TOKENS = 4  # what is offloaded comes back for each of them


def measure_placement(bench: Bench) -> list[Row]:
    """A line for each split of the model's blocks in two halves that this machine allows."""
    here = bench.device.index or 0 if bench.on_gpu else "cpu"
    others: list[int | str] = ["cpu", "disk"] if bench.on_gpu else ["disk"]
    if torch.cuda.device_count() > 1 and bench.on_gpu:
        others.insert(0, next(one for one in range(torch.cuda.device_count()) if one != here))
    return [
        attempt({"halves": f"{here} and {other}"}, functools.partial(_split, bench, here, other)) for other in others
    ]


def _split(bench: Bench, here: int | str, other: int | str) -> Row:
    workload = bench.workload()
    reference, expected = read(workload.model, workload.inputs), _generated(workload)
    room: dict[int | str, int] = {here: workload.weight_bytes // 2}
    if other != "disk":
        room[other] = 2 * workload.weight_bytes
    model: Any = workload.model
    model.tie_weights()
    places = infer_auto_device_map(model, max_memory=room, no_split_module_classes=list(model._no_split_modules))
    with tempfile.TemporaryDirectory() as folder:
        dispatch_model(model, places, main_device=here, offload_dir=folder, force_hooks=True)
        found, tokens = read(model, workload.inputs), _generated(workload)
    apart = sum(place == other for place in places.values())
    same = 100 * float((tokens == expected).float().mean())
    return {"modules in the other": apart, **agreement(found, reference), f"same {_TOKENS} tokens %": same}


def _generated(workload: Workload) -> torch.Tensor:
    model: Any = workload.model
    with scr.patch(model):
        return model.generate(**workload.inputs, max_new_tokens=_TOKENS, do_sample=False)
