"""What the methods add to a prefill and to a token, in milliseconds and bytes, beside what the paper says they do."""

from __future__ import annotations

import statistics

from ..overhead.command import measure_shape
from ..overhead.table import VANILLA
from .bench import REASONS, SKIPPED, Bench, Row, reason

_METHODS = {1: ("scr", "scr_one_pass", "naive", "vcd", "purified"), 16: ("scr", "scr_one_pass", "vcd", "purified")}
"""Batch → methods; the naive two passes hold the maps of all blocks, which in a large batch is no comparison."""
PAPER = {"scr": "43–46", "scr_one_pass": "6–11", "vcd": "153"}
"""What arXiv 2602.22469 says that a method adds, in milliseconds, on one A100 in float16: to models of 7B, but for
one-pass SCR, of which it gives one span for all sizes. It does not say for how long an answer.
"""


def measure_cost(bench: Bench) -> list[Row]:
    """A line for each batch and method: medians over the rounds, of differences within a round."""
    rows: list[Row] = []
    for batch in _METHODS:
        try:
            rows += _of_batch(bench, batch)
        except REASONS as error:
            rows.append({"batch": batch, "method": "all", SKIPPED: reason(error)})
    return rows


def _of_batch(bench: Bench, batch: int) -> list[Row]:
    record = measure_shape(
        bench.shape,
        bench.scale,
        bench.device,
        new_tokens=(1, bench.tokens),
        rounds=bench.rounds,
        compared=_METHODS[batch],
        batch=batch,
    )
    rounds, rows = record["rounds"], []
    for method in (VANILLA, *_METHODS[batch]):
        line: Row = {"batch": batch, "method": method}
        if method in record["refused"]:
            rows.append({**line, SKIPPED: record["refused"][method]})
            continue
        line["prefill ms"] = statistics.median(one[method]["prefill_ms"] for one in rounds)
        line["adds ms"] = statistics.median(one[method]["prefill_ms"] - one[VANILLA]["prefill_ms"] for one in rounds)
        line["the paper, A100, ms"] = PAPER.get(method) if batch == 1 else None
        line["ms per later token"] = statistics.median(one[method]["per_token_ms"] for one in rounds)
        line[f"{bench.tokens} tokens × vanilla"] = statistics.median(
            one[method]["until_ms"][-1] / one[VANILLA]["until_ms"][-1] for one in rounds
        )
        line["weights GB"] = record["weight_bytes"] / 1e9
        line["peak beyond weights GB"] = record["peak_bytes"][method] / 1e9
        rows.append(line)
    return rows
