"""What a notebook shows of answers side by side and of a run's outcomes: lists that come with an HTML table."""

from __future__ import annotations

import html
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..compare import Compared
    from ..running.runner import Outcome

_TAGS = {"same": "{}", "added": "<ins>{}</ins>", "removed": "<del>{}</del>"}


class SideBySide(list["Compared"]):
    """What `benchmarks.compare.compare_answers` returns: one row's answer after the other."""

    def _repr_html_(self) -> str:
        """The answers with what the first one has not and what it has more, margins and milliseconds."""
        head = ("", "answer", "margin", "tokens", "first token ms", "all ms")
        rows = [
            (
                html.escape(one.row.name),
                " ".join(_TAGS[piece.kind].format(html.escape(piece.text)) for piece in one.differences),
                "–" if one.margin is None else f"{one.margin:+.2f}",
                str(one.new_tokens),
                f"{one.prefill_ms:.0f}",
                f"{one.total_ms:.0f}",
            )
            for one in self
        ]
        cells = ["".join(f"<th>{name}</th>" for name in head)]
        cells += ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
        return f"<table>{''.join(f'<tr>{one}</tr>' for one in cells)}</table>"


class Outcomes(list["Outcome"]):
    """What `benchmarks.running.runner.run` returns: one run after the other."""

    def _repr_html_(self) -> str:
        """The tables that the command prints, task by task."""
        from .table import print_outcomes

        text = io.StringIO()
        print_outcomes(self, text)
        return f"<pre>{html.escape(text.getvalue())}</pre>"
