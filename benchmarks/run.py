"""`python -m benchmarks.run --method scr`: flags in, records and a table out."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .printing.arguments import (
    Parser,
    add_flags,
    add_model,
    guarded,
    json_or_text,
    names,
    positive,
    run_config,
    short,
)
from .records import DIAGNOSTICS

if TYPE_CHECKING:
    from .running.ranks import World

# torch is imported below, in the functions that need it, so that --help and a mistyped flag answer at once.

_EPILOG = """examples:
  python -m benchmarks.run --method scr
  python -m benchmarks.run --method scr,uniform_smooth --tasks pope_adversarial --limit 500
  python -m benchmarks.run --method scr --method-arg num_sources=16 --method-arg 'layers=[0, 12]'
  python -m benchmarks.run --method scr+noise_control --method-arg noise_control.seed=1
  python -m benchmarks.run --model llava-hf/llava-1.5-7b-hf --data-dir coco --split val2014 --limit 500
  torchrun --nproc-per-node 4 -m benchmarks.run --expect-world-size 4 --method scr
  python -m benchmarks.run --list methods

A run that was stopped goes on where it stopped. Batches are cut from the whole data set, so the last one may reach
beyond the limit; it is computed whole, and answers do not depend on the limit. Several processes take whole batches in
turn: their number changes no answer, and may be another one when a run goes on.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        0 if all went well, 1 if a run failed, 2 for an argument or input that cannot be used, 130 if interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        # A process that is gone is said in a line; torch would print a C++ stack before it. Read when it is imported.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with contextlib.ExitStack() as stack:  # closed after the guard has said what went wrong
        return guarded(
            lambda: _run(build_parser().parse_args(arguments), arguments, stack),
            "interrupted; the same command goes on from here",
            _say_error,
        )


def build_parser() -> argparse.ArgumentParser:
    """The command line; its defaults are those of `RunConfig`, shown by --help."""
    parser = Parser(
        prog="python -m benchmarks.run",
        description="Run a model with and without hallucination-reducing methods on benchmarks, and compare.",
        epilog=_EPILOG,
        old_names={"--prompt": "--prompt-variant"},
    )
    what = parser.add_argument_group("what to run")
    add_model(what)
    what.add_argument(
        "--method",
        type=names,
        default=("scr",),
        metavar="NAME[,NAME]",
        help="methods beside the baseline 'none' (scr); A+B is both, one inside the other",
    )
    add_flags(what, "--method-arg", "--prompt-variant")
    what.add_argument(
        "--adapter", metavar="NAME", help="lab/refusal, lab/seed, a folder or a hub id; the bare model is run beside it"
    )
    what.add_argument(
        "--allow-overlap",
        action="store_true",
        help="measure an adapter, or a method, on images that it was learnt from, too",
    )
    add_flags(what, "--tasks", "--limit")
    data = parser.add_argument_group("data and records")
    add_flags(data, "--data-dir", "--split", "--output-dir")
    again = data.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on from what is recorded (the default)")
    again.add_argument("--overwrite", action="store_true", help="discard what is recorded for these runs")
    how = parser.add_argument_group("how to run it")
    how.add_argument(
        "--device-map",
        type=_device_map,
        metavar="MAP",
        help="for a model larger than a device: auto, balanced, balanced_low_0, sequential, cpu or a JSON object",
    )
    how.add_argument(
        "--expect-world-size", type=positive, metavar="N", help="refuse if the launcher runs another number"
    )
    how.add_argument("--attn-implementation", metavar="NAME", help="sdpa, eager, flash_attention_2, ...")
    add_flags(how, "--batch-size")
    how.add_argument(
        "--diagnostics",
        type=names,
        default=(),
        metavar="NAME[,NAME]",
        help=f"measure beside the answers, for each image, and record: {', '.join(DIAGNOSTICS)} (nothing)",
    )
    add_flags(how, "--seed", "--gen-kwarg")
    how.add_argument(
        "--on-error",
        choices=("stop", "record"),
        default="stop",
        help="a picture that cannot be read, or that the model's processor refuses: stop, or record a failure (stop)",
    )
    instead = parser.add_argument_group("instead of running").add_mutually_exclusive_group()
    instead.add_argument(
        "--dry-run",
        nargs="?",
        const="plan",
        choices=("plan", "timed"),
        help="print what would run, and the memory it takes; 'timed' asks a few questions and estimates the time",
    )
    instead.add_argument(
        "--rescore", action="store_true", help="rebuild all metrics below --output-dir from the samples"
    )
    instead.add_argument("--list", choices=("methods", "families", "tasks", "rules", "prompts"), help="print a table")
    return parser


def _run(options: argparse.Namespace, arguments: Sequence[str], stack: contextlib.ExitStack) -> int:
    if (options.list or options.rescore or options.dry_run) and not _is_first():
        return 0
    if options.list:
        from .printing.listing import print_list

        print_list(options.list)
        return 0
    if options.rescore:
        return _rescore(options.output_dir)
    from .asking.models import check_device_map
    from .printing.table import print_plan, print_report
    from .running.plan import build_plan
    from .running.ranks import Ranks, device_of, find_world
    from .running.runner import run_plan

    world = find_world(options.expect_world_size)
    if options.device_map is not None:
        check_device_map(options.device_map, options.device)
    device = "cpu" if options.device_map == "cpu" else device_of(world, options.device, options.device_map)
    config = run_config(options, device=device, command=_command(arguments, world))
    if options.dry_run:
        from .running.estimate import memory_in_words, seconds_left

        plan = build_plan(config)
        seconds = seconds_left(plan, options.device_map) if options.dry_run == "timed" else None
        print_plan(plan, memory=memory_in_words(plan), seconds=seconds)
        return 0
    ranks = Ranks.join(world)
    stack.callback(ranks.leave)
    with ranks.telling():
        plan = build_plan(config)
        outcomes = run_plan(plan, report=_say, ranks=ranks, device_map=options.device_map)
        if world.first:
            print_report(plan, outcomes)
    return 0


def _rescore(root: Path) -> int:
    from .running.rescoring import rescore

    done = rescore(root)
    for one in done:
        if one.problem is not None:
            print(f"error: {one.folder.path}: {one.problem}", file=sys.stderr)
        else:
            changed = f"changed: {', '.join(one.changed)}" if one.changed else "as before"
            print(f"{one.folder.path}: {changed}")
    if not done:
        print(
            f"error: no runs: got {root}; expected a folder that runs were written to. Give --output-dir.",
            file=sys.stderr,
        )
        return 2
    return 1 if any(one.problem is not None for one in done) else 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _is_first() -> bool:
    """Whether this process prints; without torch, which `benchmarks.running.ranks` needs."""
    return os.environ.get("WORLD_SIZE", "1") in ("", "1") or os.environ.get("RANK", "0") == "0"


def _say_error(error: BaseException, line: str) -> None:
    """Print a line, once where all processes know of it; else with the process that failed."""
    from .running.ranks import FailedElsewhereError

    if _is_first():
        _say(line)
    elif not isinstance(error, KeyboardInterrupt | FailedElsewhereError):
        _say(line.replace("error:", f"error (process {os.environ['RANK']}):", 1))


def _command(arguments: Sequence[str], world: World) -> str:
    from .running.provenance import command_line

    if world.size == 1:
        return command_line(arguments)
    nodes = "" if world.size == world.local_size else f"--nnodes {world.size // world.local_size} "
    launcher = f"torchrun {nodes}--nproc-per-node {world.local_size}"
    return command_line(arguments).replace("python", launcher, 1)


def _device_map(text: str) -> str | dict[str, Any]:
    if not text.startswith("{"):
        return text
    found: str | dict[str, Any] = json_or_text(text)
    if isinstance(found, str):
        raise argparse.ArgumentTypeError(f"got {short(text)}; expected one of the names, or a JSON object")
    return found


if __name__ == "__main__":
    sys.exit(main())
