"""What a run will need: memory, by counting, and time, by asking a few of its questions."""

from __future__ import annotations

import time
from typing import Any

import torch

from ..asking.answering import Answerer, RefusedError
from ..asking.models import load_model, skeleton
from .applying import applied
from .cells import recorded_samples
from .methods import by_part
from .plan import Cell, Plan
from .prompts import YES_NO
from .questions import question

QUESTIONS = 8
"""How many of each cell are timed, in one batch."""
_GIB = 2**30


def memory_in_words(plan: Plan) -> str:
    """The weights, and what a batch's cache grows by; the rest, activations above all, depends on the pictures."""
    bare: Any = skeleton(plan.source)
    size = getattr(torch, plan.dtype).itemsize
    words = f"weights {sum(one.numel() for one in bare.parameters()) * size / _GIB:.2f} GiB in {plan.dtype}"
    text = bare.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or getattr(text, "num_attention_heads", None)
    blocks = getattr(text, "num_hidden_layers", None)
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    if not heads or not blocks:
        return words
    cache = 2 * blocks * heads * width * size * plan.config.batch_size * 1000 / _GIB
    return (
        f"{words}; the cache of a batch of {plan.config.batch_size} takes {cache:.2f} GiB per 1,000 tokens of a prompt "
        "with its answer, twice that where a method has a second branch"
    )


def seconds_left(plan: Plan, device_map: str | dict[str, Any] | None = None) -> dict[str, float]:
    """For each cell's folder the seconds that its missing answers take, by a few of them; nothing is recorded.

    Questions of a small batch take longer than those of a large one, so the estimate is rather too high.

    Args:
        plan: what would run.
        device_map: see `benchmarks.asking.models.load_model`.

    Raises:
        ModelLoadError, RefusedError, ...: as the run would.
    """
    recorded = {cell.folder: 0 if plan.config.overwrite else recorded_samples(plan, cell) for cell in plan.cells}
    missing = {cell.folder: cell.work.wanted - recorded[cell.folder] for cell in plan.cells}
    found = {str(cell.folder.path): 0.0 for cell in plan.cells}
    if not any(missing.values()):
        return found
    torch.set_flush_denormal(True)
    loaded = load_model(
        plan.source,
        dtype=plan.dtype,
        device=str(plan.device),
        attn_implementation=plan.config.attn_implementation,
        device_map=device_map,
    )
    answerer = Answerer(loaded)
    for cell in plan.cells:
        if missing[cell.folder]:
            with applied(loaded.model, cell.method, by_part(cell.method, cell.config_given), cell.adapter):
                found[str(cell.folder.path)] = missing[cell.folder] * _seconds_each(plan, cell, answerer)
    return found


def _seconds_each(plan: Plan, cell: Cell, answerer: Answerer) -> float:
    few = cell.work.wanted_samples[: min(QUESTIONS, cell.work.batch_size)]
    asked = [question(plan, cell, sample) for sample in few]
    short = {name: value for name, value in cell.generation.items() if name != "min_new_tokens"}
    margins = cell.work.task.kind == YES_NO
    while True:
        try:
            answerer.answer(asked, {**short, "max_new_tokens": 2}, seed=plan.config.seed, margins=margins)
            break
        except RefusedError as error:
            asked = [one for one in asked if one.id not in error.problems]
            if not asked:
                raise
    started = time.perf_counter()
    answerer.answer(asked, cell.generation, seed=plan.config.seed, margins=margins)
    return (time.perf_counter() - started) / len(asked)
