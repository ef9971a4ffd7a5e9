"""How far two readings of the same prompts agree: in the sources that SCR chooses, its map, and the first token."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

import scr
from scr.onepass.report import rank_correlation, sources_shared

from ..asking.timing import synchronize
from .bench import Row


class Reading(NamedTuple):
    """One prefill under a method that redistributes.

    Attributes:
        logits: of the first answer token: float32 (batch, vocab), on the CPU.
        traces: one per image.
        milliseconds: median of the timed prefills, after one that is not; None if none was timed.
    """

    logits: Tensor
    traces: Sequence[Any]
    milliseconds: float | None


@torch.no_grad()
def read(
    model: PreTrainedModel, inputs: Mapping[str, Any], method: str = "scr", *, timed: int = 0, **fields: Any
) -> Reading:
    """Prefill some prompts, of one length or padded on the left.

    Args:
        model: what to patch.
        inputs: what its forward takes.
        method: one whose traces have sources.
        timed: how many more prefills are timed.
        fields: of the method's configuration.
    """
    run: Any = model
    spans = []
    with scr.patch(model, method, **fields) as patched:
        logits = run(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1].float().cpu()
        traces = list(patched.traces)
        for _ in range(timed):
            synchronize(model.device)
            began = time.perf_counter()
            run(**inputs, use_cache=False, logits_to_keep=1)
            synchronize(model.device)
            spans.append(1000 * (time.perf_counter() - began))
    return Reading(logits, traces, statistics.median(spans) if spans else None)


def agreement(found: Reading, reference: Reading) -> Row:
    """How far `found` is from a reading of the same prompts that is taken for right."""
    pairs = list(zip(found.traces, reference.traces, strict=True))
    shares = [sources_shared(one.sources.tolist(), other.sources.tolist()) for one, other in pairs]
    same = found.logits.argmax(dim=-1) == reference.logits.argmax(dim=-1)
    return {
        "images": len(pairs),
        "equal sources %": 100 * statistics.fmean(shares),
        "all sources equal %": 100 * statistics.fmean(share == 1 for share in shares),
        "rank correlation of maps": statistics.fmean(
            rank_correlation(one.attention, other.attention) for one, other in pairs
        ),
        "same first token %": 100 * float(same.float().mean()),
        "largest difference of logits": float((found.logits - reference.logits).abs().max()),
    }
