"""Ratios of measured rounds, and the table that shows them as text or Markdown. Standard library only."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

_Time = Callable[[Mapping[str, Any]], float]
_ALLOWED = 0.07  # of a prefill, for all that the diagnostic does beside running blocks: 0.60 at 17 of 32
VANILLA = "vanilla"
NOTES = (
    "Methods with other branches run all of them in one forward per token where they can, those called _processor in "
    "forwards of their own. × is the ratio to vanilla: median over the rounds and, in brackets, the middle half of "
    "them; each ratio is of two generations of the same round. Times run from the call of generate to the logits of "
    "the last token, vision tower included.",
    "The text prefill is vanilla's way through the text decoder, all that the diagnostic pass of scr runs; the prefill "
    "also has the vision tower and the head. The diagnostic of naive is a whole forward.",
    "Arithmetic and memory are counted, not timed: they have no spread.",
)


class Spread(NamedTuple):
    """A ratio over several rounds: its median and its quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """With two digits, and the quartiles in brackets unless all three are one."""
        bracket = "" if self.low == self.high else f" ({self.low:.2f}–{self.high:.2f})"
        return f"{self.median:.2f}{bracket}"


class OverheadRow(NamedTuple):
    """One line of the table.

    Attributes:
        name: key in the JSON.
        label: in the table.
        vanilla: what it is for the unpatched model, with its unit; empty where there is nothing to say.
        ratios: method → ratio.
        target: what was to be reached by `scr`.
    """

    name: str
    label: str
    vanilla: str
    ratios: dict[str, Spread]
    target: str = ""


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles, of one value or more."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def rows(record: Mapping[str, Any]) -> list[OverheadRow]:
    """The table of one shape.

    Args:
        record: what `measure_shape` of the command returns.
    """
    rounds = record["rounds"]
    others = _compared(record)

    def row(name: str, label: str, time: _Time, per: _Time | None = None, target: str = "") -> OverheadRow:
        """The ratio of a method's `time` to vanilla's `per` in the same round; by default to its `time`."""
        per = per or time
        measured = [method for method in others if time(rounds[0][method]) is not None]
        ratios = {method: spread([time(one[method]) / per(one[VANILLA]) for one in rounds]) for method in measured}
        typical = statistics.median(per(one[VANILLA]) for one in rounds)
        return OverheadRow(name, label, f"{typical:.{1 if typical < 100 else 0}f} ms", ratios, target)

    table = [row("prefill", "prefill, to the first token", _prefill)]
    for tokens in record["new_tokens"]:
        if tokens > 1:
            time = _until(record["new_tokens"].index(tokens))
            table.append(row(f"until_{tokens}", f"{tokens} new tokens", time, target="≤ 1.10" if tokens == 100 else ""))
    if record["new_tokens"][-1] > 1:
        table.append(row("per_token", "each token after the first", _per_token, target="1.00"))
    needed = record["blocks_needed"] / record["blocks"]
    target = f"≤ {needed + _ALLOWED:.2f}"
    if any(_pass(rounds[0][method]) is not None for method in others):
        table.append(row("diagnostic", "diagnostic / text prefill", _pass, target=target))
        table.append(row("diagnostic_of_prefill", "diagnostic / prefill", _pass, _prefill))
    return [*table, *_counted(record, others)]


def _compared(record: Mapping[str, Any]) -> list[str]:
    return [method for method in record["rounds"][0] if method != VANILLA]


def _prefill(part: Mapping[str, Any]) -> float:
    return part["prefill_ms"]


def _per_token(part: Mapping[str, Any]) -> float:
    return part["per_token_ms"]


def _pass(part: Mapping[str, Any]) -> float:
    return part["pass_ms"]


def _until(index: int) -> _Time:
    return lambda part: part["until_ms"][index]


def _counted(record: Mapping[str, Any], others: Sequence[str]) -> list[OverheadRow]:
    weights, beyond = record["weight_bytes"], record["peak_bytes"]
    whole = {method: weights + peak for method, peak in beyond.items()}
    found = []
    for name, label, counts, unit, target in (
        ("operations", "arithmetic of the prefill", record["prefill_operations"], "GFLOP", ""),
        ("peak_memory", "peak memory", whole, "MB", "≤ 1.05"),
        ("peak_beyond_weights", "peak memory beyond the weights", beyond, "MB", ""),
    ):
        ratios = {method: spread([counts[method] / counts[VANILLA]]) for method in others}
        scaled = counts[VANILLA] / (1e9 if unit == "GFLOP" else 1e6)
        found.append(OverheadRow(name, label, f"{scaled:,.{1 if scaled < 100 else 0}f} {unit}", ratios, target))
    return found


def title(record: Mapping[str, Any]) -> str:
    """What was measured, in one line."""
    return (
        f"{record['shape']} ({record['stands_for']}), {record['scale']}: {record['parameters'] / 1e6:,.0f} million "
        f"parameters, {record['blocks']} blocks of {record['hidden']}, {record['image_tokens']} image tokens and "
        f"{record['text_tokens']} of text; {record['dtype']}, batch {record['batch']}, beams {record['beams']}, "
        f"{len(record['rounds'])} rounds{', CPU time' if record.get('clock') == 'cpu' else ''}"
    )


def as_text(record: Mapping[str, Any]) -> str:
    """The table of one shape for a terminal: a line for each method."""
    lines = _lines(record)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    body = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([title(record), *body, *_skipped(record)])


def as_markdown(record: Mapping[str, Any]) -> str:
    """The same for README."""
    head, *lines = _lines(record)
    rule = ("---", *("--:",) * (len(head) - 1))
    return "\n".join(
        [title(record), "", *(f"| {' | '.join(line)} |" for line in (head, rule, *lines)), *_skipped(record)]
    )


def _lines(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    columns = rows(record)
    lines = [("", *(f"{row.label} ×" for row in columns)), (VANILLA, *(row.vanilla for row in columns))]
    for method in _compared(record):
        lines.append((method, *(str(row.ratios[method]) if method in row.ratios else "" for row in columns)))
    if any(row.target for row in columns):
        lines.append(("to reach by scr", *(row.target for row in columns)))
    return lines


def _skipped(record: Mapping[str, Any]) -> list[str]:
    return [f"{method}: skipped, {reason}" for method, reason in record.get("refused", {}).items()]
