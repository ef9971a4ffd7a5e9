"""Reading `SampleRecord.trace`: every key may be missing or null, and what is no finite number counts as missing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._benchmarks import SampleRecord

MEASURES: Mapping[str, str] = {
    "entropy": "attention entropy (nats)",
    "entropy_normalized": "attention entropy / log N",
    "credit_entropy_norms": "credit entropy by norms (nats)",
    "credit_entropy_gradients": "credit entropy by gradients (nats)",
}
"""Key of a trace that can be held against hallucination → what it is."""


def number(sample: SampleRecord, *keys: str) -> float:
    """The number below these keys of a sample's trace; NaN where there is none."""
    value: Any = sample.trace
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return _number(value)


def series(sample: SampleRecord, key: str) -> list[float]:
    """The list of numbers below a key of a sample's trace, NaN for what is none; empty where there is no list."""
    value = sample.trace.get(key) if isinstance(sample.trace, Mapping) else None
    return [_number(one) for one in value] if isinstance(value, list) else []


def patches(sample: SampleRecord) -> int | None:
    """N, the number of patches of a sample's grids; None where the trace does not tell."""
    trace = sample.trace if isinstance(sample.trace, Mapping) else {}
    grids, attention = trace.get("grids"), trace.get("attention")
    try:
        if grids:
            return sum(int(height) * int(width) for height, width in grids) or None
    except (TypeError, ValueError):
        return None
    return len(attention) if isinstance(attention, list) and attention else None


def numbers(samples: Iterable[SampleRecord], *keys: str) -> NDArray[np.float64]:
    """`number` of each sample, (n,)."""
    return np.array([number(sample, *keys) for sample in samples], dtype=np.float64)


def largest_entropy(samples: Iterable[SampleRecord]) -> float | None:
    """Logarithm of N of the largest grids among the samples; None where no trace tells."""
    most = max((count for sample in samples if (count := patches(sample)) is not None), default=None)
    return None if most is None else math.log(most)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return math.nan
    return float(value)
