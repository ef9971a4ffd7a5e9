"""What a method costs: times of a run's batches, and their ratio to a baseline that was timed in the same process.

A batch is what is timed; its samples share its time. One batch that another program disturbed would move a mean, so
that a time is the median over batches, with the middle half of them beside it, and of few batches there is none.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..records import SampleRecord

FEWEST_BATCHES = 5
"""Of fewer batches no time is given: their spread is not known."""
OTHER_PROCESS = "the baseline was timed by another process, so a ratio would compare two machines or two loads"

_TIMES = ("prefill_ms", "decode_ms", "total_ms", "ms_per_token")
_RATIOS = {"prefill_ms": "prefill_ratio", "ms_per_token": "ms_per_token_ratio", "total_ms": "total_ratio"}


def summarize_timing(
    records: Sequence[SampleRecord],
    timed: Collection[str],
    batch_size: int,
    baseline: tuple[Sequence[SampleRecord], Collection[str]] | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Times of a run.

    Args:
        records: all of its samples, in the task's order.
        timed: ids of those that this process answered.
        batch_size: so many of them, one after the other, make a batch.
        baseline: the first two of the run without a method, on the same samples; None for that run itself.

    Returns:
        The times, and reasons for those that are None. Times: `samples`, `batches`; medians over batches of
        `prefill_ms`, `decode_ms` and their sum `total_ms`, per sample, and of `ms_per_token`, of the tokens after the
        first. With a baseline also `prefill_ratio`, `ms_per_token_ratio` and `total_ratio`: medians of the ratios of
        batches that this process timed with both. Beside each the quartiles over batches, as `<name>_spread`. All are
        None for fewer than `FEWEST_BATCHES` batches.
    """
    ours = _of_batches(records, batch_size, [record.id for record in records])
    timing: dict[str, Any] = {"samples": len(records), "batches": len(ours), **_medians(_TIMES, ours)}
    reasons = {} if len(ours) >= FEWEST_BATCHES else {"timing": _too_few(len(ours))}
    if baseline is None:
        return timing, reasons
    there, there_timed = baseline
    shared = set(timed) & set(there_timed)
    for of in (records, there):
        # What failed in one of the two has no time there: its batch is left out of both, or others would be paired.
        shared -= {record.id for record in of if record.prefill_ms is None or record.decode_ms is None}
    pairs = _of_batches(records, batch_size, shared), _of_batches(there, batch_size, shared)
    # 0 / 0 is no ratio: where nothing was decoded after the prefill.
    ratios = np.divide(*pairs, out=np.full_like(pairs[0], np.nan), where=pairs[1] > 0)
    found = _medians(_TIMES, ratios)
    for name, ratio in _RATIOS.items():
        timing |= {ratio: found[name], f"{ratio}_spread": found[f"{name}_spread"]}
    if not shared:
        reasons["timing.ratio"] = OTHER_PROCESS
    elif len(ratios) < FEWEST_BATCHES <= len(ours):
        reasons["timing.ratio"] = _too_few(len(ratios))
    return timing, reasons


def _too_few(batches: int) -> str:
    return f"{batches} batches were timed, and of fewer than {FEWEST_BATCHES} the spread is not known"


def _of_batches(records: Sequence[SampleRecord], batch_size: int, wanted: Collection[str]) -> NDArray[np.float64]:
    """The `_TIMES` of each batch all of whose samples are wanted and were timed, (batches, 4); NaN where undefined."""
    rows = []
    for start in range(0, len(records), batch_size):
        batch = records[start : start + batch_size]
        prefill, decode = ([getattr(record, name) for record in batch] for name in ("prefill_ms", "decode_ms"))
        if not all(record.id in wanted for record in batch) or None in (*prefill, *decode):
            continue
        # The first token comes with the prefill.
        later = sum(record.new_tokens - 1 for record in batch if record.new_tokens)
        means = sum(prefill) / len(batch), sum(decode) / len(batch)
        rows.append([*means, sum(means), sum(decode) / later if later else np.nan])
    return np.array(rows, dtype=np.float64).reshape(-1, len(_TIMES))


def _medians(names: Sequence[str], batches: NDArray[np.float64]) -> dict[str, Any]:
    """Name → median, and name_spread → quartiles, over the batches in which it is defined; None for too few."""
    found: dict[str, Any] = {}
    for name, column in zip(names, batches.T, strict=True):
        known = column[np.isfinite(column)]
        low, middle, high = (
            np.quantile(known, [0.25, 0.5, 0.75]).tolist() if len(known) >= FEWEST_BATCHES else [None] * 3
        )
        found |= {name: middle, f"{name}_spread": None if middle is None else [low, high]}
    return found
