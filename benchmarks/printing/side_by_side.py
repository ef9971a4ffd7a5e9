"""Answers side by side, as `benchmarks.compare` prints them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.text import Text

from ..studies.side_by_side import Compared
from ..studies.wording import marked
from .console import Printer

# Told by more than colour: one is struck through, the other underlined.
_STYLES = {"same": "", "added": "bold green underline", "removed": "red strike"}


def print_answers(head: Mapping[str, Any], found: Sequence[Compared], file: TextIO | None = None) -> None:
    """Print the answers side by side.

    Args:
        head: model, dtype, device, image, prompt, rounds and adapters_trained_on_image, as in the JSON object.
        found: as `compare_answers` returns it.
        file: where to; None for standard output. Plain text where that is no terminal.
    """
    printer = Printer(file)
    printer.line(f"model {head['model']}, {head['dtype']} on {head['device']}", style="bold")
    printer.path(f"image: {head['image']}")
    printer.line(f"prompt: {head['prompt']}")
    printer.line()
    with_margin = any(one.margin is not None for one in found)
    table = printer.table("", "answer", *(["margin"] if with_margin else []), "tokens", "first\ntoken ms", "all ms")
    table.padding = (0, 0, 1, 2)
    for column in table.columns:
        column.vertical = "top"
    table.columns[1].justify = "left"
    for one in found:
        margin = [] if not with_margin else ["–" if one.margin is None else f"{one.margin:+.2f}"]
        numbers = (str(one.new_tokens), f"{one.prefill_ms:.0f}", f"{one.total_ms:.0f}")
        name = one.condition.name.replace(", ", ",\n").replace("+", "+\n")
        table.add_row(name, _shown(one, printer.colour), *margin, *numbers)
    printer.add(table)
    marks = "underlined: added; struck through: left out" if printer.colour else "[+added] [-left out]"
    printer.line(f"Words, compared with {found[0].condition.name}: {marks}.")
    if with_margin:
        printer.line("Margin: logit of yes minus logit of no at the first token.")
    rounds = "one round" if head["rounds"] == 1 else f"{head['rounds']} rounds, the median"
    printer.line(f"Milliseconds of {rounds}, after one that was thrown away.")
    for name in head["adapters_trained_on_image"]:
        printer.line(f"{name} was trained on this image.")


def as_json(one: Compared, config: Mapping[str, Any]) -> dict[str, Any]:
    """An answer as `--json` prints it; `config` is the method's."""
    return {
        "row": one.condition.name,
        "method": one.condition.method,
        "config": config,
        "adapter": None if one.condition.adapter is None else one.condition.adapter.name,
        "output": one.output,
        "changed": one.changed,
        "differences": [[piece.kind, piece.text] for piece in one.differences],
        "margin": one.margin,
        "new_tokens": one.new_tokens,
        "prefill_ms": one.prefill_ms,
        "total_ms": one.total_ms,
    }


def _shown(one: Compared, colour: bool) -> Text:
    if not one.output and not one.differences:
        return Text("(empty)")
    if not colour:
        return Text(marked(one.differences))
    text = Text()
    for number, piece in enumerate(one.differences):
        text.append(" " if number else "").append(piece.text, style=_STYLES[piece.kind])
    return text
