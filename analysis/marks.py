"""Does a method help on your own photos? `python -m analysis.marks described/ marks.json`, by what you have marked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from scr.command.guard import FAILED, guarded
from scr.command.parser import Parser

from .command import say_finding
from .findings.marks import marks_finding
from .reading.load import NothingToShowError
from .reading.marks import read_marked


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        0 if something was shown, 1 if nothing is marked, 2 for a file that cannot be used.
    """
    return guarded(lambda: _run(argv))


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(
        prog="python -m analysis.marks",
        description="Each method's rate of made-up mentions and of coverage, by what was marked in photos.",
    )
    parser.add_argument("described", type=Path, help="folder that scr.describe wrote")
    parser.add_argument("marks", type=Path, help="marks.json, as its page saves it")
    return parser


def _run(argv: Sequence[str] | None) -> int:
    options = build_parser().parse_args(argv)
    try:
        finding = marks_finding(read_marked(options.described, options.marks))
    except NothingToShowError as error:
        print(f"nothing to show: {error}", file=sys.stderr)
        return FAILED
    say_finding(finding)
    return 0


if __name__ == "__main__":
    sys.exit(main())
