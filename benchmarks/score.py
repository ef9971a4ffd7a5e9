"""`python -m benchmarks.score pope ...`: score answers that any other tool produced."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from .printing.arguments import Parser, guarded
from .records import Found, hallucinated_mentions
from .tasks import SCORERS, load_scorer
from .tasks.scoring import Scored


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 if the answers were scored, 2 for an argument or a file that cannot be used, or where the result cannot be
        written, 130 if interrupted.
    """
    return guarded(lambda: _run(list(sys.argv[1:] if argv is None else argv)))


def build_parser(first: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The command line: one sub-command per scorer.

    Args:
        first: the first argument, if any. Where it names a scorer, only that one is imported: no benchmark has to wait
            for another's libraries, or fail because they are missing.
    """
    parser = Parser(prog="python -m benchmarks.score", description="Score answers that any tool produced.")
    kinds = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    for name in [name for name in SCORERS if name in first] or SCORERS:
        scorer = load_scorer(name)
        one = kinds.add_parser(name, help=scorer.summary, description=scorer.summary)
        scorer.add_arguments(one)
        one.add_argument("--allow-missing", action="store_true", help="score the answered part and count the rest")
        one.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser


def as_json(scored: Scored) -> dict[str, object]:
    """The one object of the contract."""
    scores = scored.scores
    content: dict[str, object] = {
        "task": scored.task,
        "rule": scored.rule,
        "metrics": scores.metrics,
        "counts": scores.counts,
        "intervals": scores.intervals,
        "reasons": scores.reasons,
        "units": scores.units,
    }
    return {**content, "details": dict(scored.details)} if scored.details else content


def as_text(scored: Scored) -> str:
    """A table: a metric per line, with its interval and unit, or why it is undefined; then the counts."""
    scores = scored.scores
    lines = [f"{scored.task} · rule {scored.rule}"]
    width = max((len(name) for name in (*scores.metrics, *scores.counts)), default=0)
    for name, value in scores.metrics.items():
        unit = scores.units.get(name, "%")
        factor = 1 if name in scores.units else 100
        if value is None:
            shown = f"undefined: {scores.reasons.get(name, 'no reason given')}"
        else:
            shown = f"{factor * value:8.2f} {unit}"
            if name in scores.intervals:
                low, high = (factor * bound for bound in scores.intervals[name])
                shown += f"  ({low:.2f}–{high:.2f})"
        lines.append(f"  {name.ljust(width)}  {shown}")
    lines += [f"  {name.ljust(width)}  {count:8d}" for name, count in scores.counts.items()]
    return "\n".join([*lines, *scored.notes, *(_detail(name, found) for name, found in scored.details.items())])


def _detail(name: str, found: Found) -> str:
    """A line per caption: the hallucinated words with their places, and the objects that are there."""
    marked = hallucinated_mentions(found)
    words = [
        f"{json.dumps(one['word'], ensure_ascii=False)} {one['start']}–{one['end']} ({one['node']})" for one in marked
    ]
    kinds = {"hallucinated": words, "grounded": found["grounded"], "missed": found["missed"]}
    return f"{name}: " + "; ".join(f"{kind} {', '.join(names) or 'nothing'}" for kind, names in kinds.items())


def _run(given: Sequence[str]) -> int:
    options = build_parser(given[:1]).parse_args(given)
    scored = load_scorer(options.benchmark).score(options)
    return _write(json.dumps(as_json(scored)) if options.json else as_text(scored))


def _write(text: str) -> int:
    """Print, with what the terminal's encoding lacks written as escapes; the status to exit with."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError as error:
        # What could not be written is still held, and would be tried again, and fail, when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough
            return 0
        print(
            f"error: cannot write the result: got {error.strerror}; expected an output that takes it. Choose another.",
            file=sys.stderr,
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
