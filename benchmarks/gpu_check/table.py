"""What was found, as Markdown. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_SKIPPED = "skipped"


def as_markdown(found: Mapping[str, Any]) -> str:
    """A page: where it ran, and for each part its table, or why there is none.

    Args:
        found: what `benchmarks.gpu_check.command.check` returns.
    """
    blocks = [f"# What only a GPU can show\n\n{found['machine_line']}; {found['model_line']}."]
    for part in found["parts"]:
        blocks.append(f"## {part['title']}")
        if reason := part.get("failed") or part.get("skipped"):
            blocks.append(f"{'Failed' if 'failed' in part else 'Skipped'}: {reason}")
            continue
        blocks += _table(part["rows"])
        blocks.append(f"{part['seconds']:.0f} seconds.")
    return "\n\n".join(blocks) + "\n"


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    measured = [row for row in rows if _SKIPPED not in row]
    heads = list(dict.fromkeys(head for row in measured for head in row))
    words = {head for head in heads if any(isinstance(row.get(head), str) for row in measured)}
    lines = [heads, ["---" if head in words else "--:" for head in heads]]
    lines += [[_cell(row.get(head)) for head in heads] for row in measured]
    table = ["\n".join(f"| {' | '.join(line)} |" for line in lines)] if measured else []
    skipped = [
        f"* {', '.join(str(value) for head, value in row.items() if head != _SKIPPED)}: skipped, {row[_SKIPPED]}"
        for row in rows
        if _SKIPPED in row
    ]
    return [*table, "\n".join(skipped)] if skipped else table


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return str(value).replace("|", "\\|")
