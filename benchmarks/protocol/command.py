"""`python -m benchmarks.protocol list|run|check|render`: declared rows on real weights, and whether to believe them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..printing.arguments import Parser, add_flags, guarded, names, short
from .declaration import get_protocol, list_protocols

# What imports torch is imported below, in the functions that need it, so that --help answers at once.

_EPILOG = """examples:
  python -m benchmarks.protocol run llava15-pope-chair --data-dir coco --rehearse
  python -m benchmarks.protocol run llava15-pope-chair --data-dir coco --part pope-greedy
  python -m benchmarks.protocol check results/llava15-pope-chair
  python -m benchmarks.protocol render results/llava15-pope-chair --output llava15-a100
  python -m benchmarks.protocol check llava15-a100
"""
_FIXED = ("--method", "--method-arg", "--tasks", "--limit", "--split", "--prompt-variant", "--gen-kwarg", "--seed")
"""Flags of `benchmarks.run` that a protocol has declared."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status: 1 where a check found something."""
    return guarded(
        lambda: _run(build_parser().parse_args(argv)), "interrupted; the same command goes on from where it was"
    )


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.protocol",
        description="Protocols that were declared before anybody ran them, for whoever has the weights.",
        epilog=_EPILOG,
    )
    kinds = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    kinds.add_parser("list", help="the declared protocols, their parts and rows")
    one = kinds.add_parser("run", help="run the declared rows; what is recorded is not computed again")
    one.add_argument("name", metavar="NAME", help="a declared protocol")
    one.add_argument("--data-dir", type=Path, required=True, metavar="DIR", help="what `list` says the protocol takes")
    one.add_argument("--output-dir", type=Path, metavar="DIR", help="where records go (results/NAME)")
    one.add_argument("--part", type=names, default=(), metavar="NAME[,NAME]", help="of the protocol's parts (all)")
    one.add_argument("--model", metavar="NAME", help="a copy of the declared model, or a stand-in of its class")
    one.add_argument("--adapter", metavar="NAME", help="likewise, of the declared adapter")
    one.add_argument("--dtype", default="auto", help="float32, bfloat16, float16 or auto (float32 on a CPU)")
    one.add_argument("--device", default="auto", help="cpu, cuda, cuda:N or auto (a GPU if there is one)")
    one.add_argument("--attn-implementation", metavar="NAME", help="sdpa, eager, flash_attention_2, ...")
    add_flags(one, "--batch-size")
    one.add_argument("--rehearse", action="store_true", help="two images and four tokens per row: tries everything")
    one.add_argument("--dry-run", action="store_true", help="print what would run")
    for flag in _FIXED:
        one.add_argument(flag, action=_Declared, type=str, help=argparse.SUPPRESS)
    one = kinds.add_parser("check", help="whether the rows are as declared, and the baseline as published")
    one.add_argument("folder", type=Path, metavar="FOLDER", help="what `run` or `render` wrote")
    one = kinds.add_parser("render", help="write a folder to hand in: records, provenance, a table, no images")
    one.add_argument("folder", type=Path, metavar="FOLDER", help="what `run` wrote")
    one.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder")
    return parser


class _Declared(argparse.Action):
    """A flag whose value the protocol has declared."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Refuse it."""
        parser.error(
            f"argument {option_string}: got {short(str(values))}; expected none, as the rows are declared. "
            "Run others by benchmarks.run, under no protocol's name"
        )


def _run(options: argparse.Namespace) -> int:
    run: dict[str, Callable[[argparse.Namespace], int]] = {
        **{"list": _list, "run": _run_rows, "check": _check, "render": _render}
    }
    return run[options.command](options)


def _list(options: argparse.Namespace) -> int:
    from ..printing.console import Printer

    printer = Printer(None)
    for name in list_protocols():
        one = get_protocol(name)
        printer.line(f"{name}, version {one.version}: {one.summary}", style="bold")
        printer.line(f"  model: {one.model}")
        printer.line(f"  data: {one.data}")
        for part in one.parts:
            adapter = f", with the adapter {part.adapter}" if part.adapter else ""
            told = ", ".join(f"{key} {value}" for key, value in part.generation.items())
            printer.line(
                f"  {part.name}: {', '.join(part.tasks)} on {part.limit} images; {', '.join(part.methods)}{adapter}; "
                f"prompt {part.prompt}; {told}"
            )
        printer.line(f"  baseline: {f'{len(one.anchors)} published anchors' if one.anchors else one.without_anchors}")
        printer.line()
    return 0


def _run_rows(options: argparse.Namespace) -> int:
    from ..printing.table import print_plan, print_report
    from ..running.ranks import find_world
    from .running import plan_parts, run_parts

    find_world(expected=1)
    protocol = get_protocol(options.name)
    protocol = protocol.rehearsed() if options.rehearse else protocol
    output = options.output_dir
    if output is None:
        output = Path("results") / (f"{protocol.name}-rehearsal" if protocol.rehearsal else protocol.name)
    plans = plan_parts(
        protocol,
        options.data_dir,
        output,
        model=options.model,
        adapter=options.adapter,
        parts=options.part,
        machine={
            "dtype": options.dtype,
            "device": options.device,
            "attn_implementation": options.attn_implementation,
            "batch_size": options.batch_size,
        },
    )
    if options.dry_run:
        for plan in plans:
            print_plan(plan)
        return 0
    for plan, outcomes in run_parts(protocol, plans, _say):
        print_report(plan, outcomes)
    print(f"before you believe any of it: python -m benchmarks.protocol check {output}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from .examine import examine
    from .hand_in import unlike_manifest
    from .stamp import declared_by, read_stamp
    from .table import print_examination

    stamp = read_stamp(options.folder)
    protocol = declared_by(stamp)
    found = examine(options.folder, protocol, stamp)
    return 0 if print_examination(protocol, stamp, found, unlike_manifest(options.folder)) else 1


def _render(options: argparse.Namespace) -> int:
    from .examine import examine
    from .hand_in import hand_in
    from .stamp import declared_by, read_stamp

    stamp = read_stamp(options.folder)
    protocol = declared_by(stamp)
    found = examine(options.folder, protocol, stamp)
    written = hand_in(options.folder, options.output, protocol, stamp, found)
    print(f"wrote {len(written)} files to {options.output}; look at them, then hand the folder in")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
