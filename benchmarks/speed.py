"""What a method costs: mean times of a run, and their ratio to a baseline that was timed in the same process."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from .records import SampleRecord

OTHER_PROCESS = "the baseline was timed by another process, so a ratio would compare two machines or two loads"


def summarize_timing(
    records: Sequence[SampleRecord],
    timed: Collection[str],
    baseline: tuple[Sequence[SampleRecord], Collection[str]] | None = None,
) -> tuple[dict[str, Any], str | None]:
    """Times of a run.

    Args:
        records: all of its samples.
        timed: ids of those that this process answered.
        baseline: the same two of the run without a method; None for that run itself.

    Returns:
        The times, and why the ratios are None (or None). Times: `samples`; `prefill_ms`, `decode_ms` and their sum
        `total_ms`, means per sample, amortised over its batch; `ms_per_token`, of the tokens after the first. With a
        baseline also `prefill_ratio`, `ms_per_token_ratio` and `total_ratio`, over the samples that this process timed
        with both.
    """
    timing: dict[str, Any] = {"samples": len(records), **_means(records)}
    if baseline is None:
        return timing, None
    there, there_timed = baseline
    shared = set(timed) & set(there_timed)
    ours = _means([record for record in records if record.id in shared])
    theirs = _means([record for record in there if record.id in shared])
    for name in ("prefill", "ms_per_token", "total"):
        key = name if name in ours else f"{name}_ms"
        timing[f"{name}_ratio"] = _ratio(ours[key], theirs[key])
    return timing, None if shared else OTHER_PROCESS


def _means(records: Sequence[SampleRecord]) -> dict[str, float | None]:
    prefill = [record.prefill_ms for record in records if record.prefill_ms is not None]
    decode = [record.decode_ms for record in records if record.decode_ms is not None]
    # The first token comes with the prefill.
    later = sum(record.new_tokens - 1 for record in records if record.new_tokens)
    return {
        "prefill_ms": sum(prefill) / len(prefill) if prefill else None,
        "decode_ms": sum(decode) / len(decode) if decode else None,
        "ms_per_token": sum(decode) / later if decode and later else None,
        "total_ms": (sum(prefill) + sum(decode)) / len(prefill) if prefill else None,
    }


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None
