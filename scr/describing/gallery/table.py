"""`descriptions.csv`: the descriptions for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from ...pages.escaping import for_csv
from .records import Row

COLUMNS = ("image", "method", "text", "doubtful_words", "highest_doubt", "milliseconds", "error")
"""What a row has: `doubtful_words` are those with a score, the most doubtful first."""


def as_csv(rows: Iterable[Row]) -> str:
    """The table: a line for each photo and method; no text is a formula in it, and none has a line break."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        scored = [(one["score"], one["word"]) for one in row["doubts"] if one["score"] is not None]
        scored.sort(key=lambda one: -one[0])
        writer.writerow(
            (
                *(for_csv(row[name]) for name in ("image", "method", "text")),
                for_csv("; ".join(f"{word} {score:.2f}" for score, word in scored)),
                scored[0][0] if scored else "",
                round(row["milliseconds"]),
                for_csv(row["error"] or ""),
            )
        )
    return stream.getvalue()
