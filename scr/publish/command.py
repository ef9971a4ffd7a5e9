"""`python -m scr.publish METHOD --output FOLDER`: a repository that `model.generate(custom_generate=...)` runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..command.guard import guarded
from ..command.parser import Parser
from ..command.types import key_value

# torch is imported below, where it is needed, so that --help and a mistyped flag answer at once.

_EPILOG = """examples:
  python -m scr.publish vcd --output vcd --set contrast=0.8
  python -m scr.publish scr+purified --output both --results results
  python -m scr.publish vcd --output vcd --push NAME/vcd

Whoever has scr-vlm then needs no line of it:
  model.generate(**inputs, custom_generate="vcd", trust_remote_code=True)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        0 if all went well, 2 for a method that cannot be published or a hub that refuses, 1 where files cannot be
        written, 130 if interrupted.
    """
    return guarded(lambda: _run(build_parser().parse_args(argv)))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="python -m scr.publish",
        description="Write a method as a `custom_generate` repository, which transformers runs by itself.",
        epilog=_EPILOG,
    )
    parser.add_argument("method", metavar="METHOD", help="a method, or several with + between")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="where it goes: a new folder, or what this wrote"
    )
    parser.add_argument(
        "--set", type=key_value, action="append", default=[], metavar="K=V", help="a field of the method"
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="results of `python -m benchmarks.run`: what was measured with just these fields goes into the card",
    )
    parser.add_argument("--push", metavar="NAME", help="also upload it to the hub, as this repository")
    parser.add_argument("--private", action="store_true", help="make the hub's repository a private one")
    return parser


def _run(options: argparse.Namespace) -> None:
    from .numbers import measured
    from .repository import push, write_repository
    from .travelling import published

    what = published(options.method, dict(options.set))
    numbers = measured(options.results, what) if options.results else ()
    write_repository(options.output, what, numbers)
    print(f"{what.method}: {options.output}; measurements in its card: {len(numbers)}")
    if options.push:
        print(f"{what.method}: {push(options.output, options.push, private=options.private)}")
