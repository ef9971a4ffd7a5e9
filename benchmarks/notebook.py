"""Runs and comparisons for notebooks: the same work as the commands', with results that show themselves as tables."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .asking.models import LoadedModel
from .printing.table import print_outcomes
from .running import runner
from .running.methods import Configs
from .running.outcomes import Outcome
from .running.plan import RunConfig
from .studies import side_by_side
from .studies.side_by_side import Compared, Condition

_TAGS = {"same": "{}", "added": "<ins>{}</ins>", "removed": "<del>{}</del>"}


class SideBySide(list[Compared]):
    """The answers under several conditions, one after the other."""

    def _repr_html_(self) -> str:
        """The answers with what the first one has not and what it has more, margins and milliseconds."""
        head = ("", "answer", "margin", "tokens", "first token ms", "all ms")
        rows = [
            (
                html.escape(one.condition.name),
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


class Outcomes(list[Outcome]):
    """What came out of the runs of a command, one after the other."""

    def _repr_html_(self) -> str:
        """The tables that the command prints, task by task."""
        text = io.StringIO()
        print_outcomes(self, text)
        return f"<pre>{html.escape(text.getvalue())}</pre>"


def run(config: RunConfig, report: Callable[[str], None] = lambda line: None) -> Outcomes:
    """As `benchmarks.running.runner.run`."""
    return Outcomes(runner.run(config, report))


def compare_answers(
    loaded: LoadedModel,
    image: Path,
    prompt: str,
    conditions: Sequence[Condition],
    given: Configs,
    *,
    generation: Mapping[str, Any],
    rounds: int = 3,
) -> SideBySide:
    """As `benchmarks.studies.side_by_side.compare_answers`."""
    return SideBySide(
        side_by_side.compare_answers(loaded, image, prompt, conditions, given, generation=generation, rounds=rounds)
    )
