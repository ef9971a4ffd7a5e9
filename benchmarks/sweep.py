"""One method at several configurations: `python -m benchmarks.sweep --vary scale=1.0,1.1,1.2 --vary num_sources=4,16`.

One field at a time is moved away from a base configuration, or all of them at once with `--cross`. The runs are those
of `benchmarks.run`, in the same store: what is recorded is not computed again, and run.json holds each configuration.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .printing.arguments import (
    Parser,
    add_flags,
    add_model,
    guarded,
    json_or_text,
    key_value,
    run_config,
    short,
)

if TYPE_CHECKING:
    from .studies.sweeps import Factor

# torch is imported below, in the functions that need it, so that --help and a mistyped flag answer at once.

_EPILOG = """examples:
  python -m benchmarks.sweep --vary scale=1.0,1.05,1.1,1.2,1.5 --vary num_sources=4,8,16
  python -m benchmarks.sweep --vary 'layers=[0,2],[0,4],[2,6]' --vary selection=top_k,greedy --vary include_border=true
  python -m benchmarks.sweep --method purified --vary contrast=0.2,0.6,1 --vary image_keep=0.1,0.3,0.5,0.7
  python -m benchmarks.sweep --vary scale=1.1,1.5 --vary radius=1,2 --cross --method-arg num_sources=8
  python -m benchmarks.sweep --method scr+purified --vary purified.contrast=0.3,0.6

Values are JSON, with commas between them; a comma inside brackets, braces or quotation marks belongs to the value: a
run of blocks is [0,4], the first and the one after the last. What is no JSON is a string. The base configuration is the
method's own, with --method-arg and, for a lab model, its settings. All values are checked before anything runs.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        0 if all went well, 1 if a run failed, 2 for an argument or input that cannot be used, 130 if interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(
        lambda: _run(build_parser().parse_args(arguments), arguments), "interrupted; the same command goes on from here"
    )


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.sweep",
        description="Run one method at several configurations, and compare each with the unpatched model and the base.",
        epilog=_EPILOG,
        old_names={"--prompt": "--prompt-variant"},
    )
    what = parser.add_argument_group("what to vary").add_argument
    what("--vary", type=factor, action="append", required=True, metavar="[NAME.]K=V[,V]", help="a field and its values")
    what("--cross", action="store_true", help="all combinations, instead of one field at a time")
    what("--method", default="scr", metavar="NAME", help="the method (%(default)s); A+B is both")
    what("--method-arg", type=key_value, action="append", default=[], metavar="[NAME.]K=V",
         help="field of the base configuration")  # fmt: skip
    group = parser.add_argument_group("as benchmarks.run")
    add_model(group)
    add_flags(group, "--prompt-variant", "--tasks", "--limit", "--data-dir", "--split", "--output-dir", "--batch-size",
              "--seed", "--gen-kwarg", tasks=("pope_adversarial", "chair"))  # fmt: skip
    group.add_argument("--dry-run", action="store_true", help="print what would run")
    return parser


def factor(text: str) -> Factor:
    """Read NAME=VALUE,VALUE; a comma inside brackets, braces or quotation marks belongs to the value."""
    from .studies.sweeps import Factor

    name, equals, rest = text.partition("=")
    if not name.strip() or not equals or not rest.strip():
        raise argparse.ArgumentTypeError(f"got {short(text)}; expected FIELD=VALUE,VALUE")
    values: list[Any] = []
    for part in _split(rest):
        if not part.strip():
            raise argparse.ArgumentTypeError(f"got {short(text)}; expected a value before and after each comma")
        value = json_or_text(part.strip())
        if not any(_same(value, other) for other in values):
            values.append(value)
    return Factor(name.strip(), tuple(values))


def _run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    from .printing.sweep_table import print_dry, print_sweep
    from .running.provenance import command_line
    from .running.ranks import find_world
    from .studies.sweeps import build_sweep, run_sweep

    find_world(expected=1)
    config = run_config(options, command=command_line(arguments, "benchmarks.sweep"))
    sweep = build_sweep(config, options.vary, options.cross)
    if options.dry_run:
        print_dry(sweep)
        return 0
    print_sweep(sweep, run_sweep(sweep, lambda line: print(line, file=sys.stderr, flush=True)))
    return 0


def _split(text: str) -> list[str]:
    """The parts between commas that are in no bracket and no quotation marks."""
    parts, depth, quoted, escaped = [""], 0, False, False
    for letter in text:
        if letter == "," and depth == 0 and not quoted:
            parts.append("")
            continue
        parts[-1] += letter
        if letter == '"' and not escaped:
            quoted = not quoted
        elif not quoted:
            depth += (letter in "[{(") - (letter in "]})")
        escaped = letter == "\\" and not escaped
    return parts


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


if __name__ == "__main__":
    sys.exit(main())
