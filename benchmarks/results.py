"""Folders of results: `python -m benchmarks.results list|diff|rm` says what lies there, compares two, and clears up."""

from __future__ import annotations

import argparse
import fnmatch
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from scr import ConfigError

from .printing.arguments import Parser, guarded
from .printing.console import Printer
from .printing.stored_table import print_pairs, print_runs
from .store import RUN_FILE, SAMPLES_FILE
from .studies.stored import StoredRun, as_run, compare_pair, look, paired_runs, remove, runs_below

DEFAULT = Path("results")
"""Where `benchmarks.run` writes unless told otherwise."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    return guarded(lambda: _run(build_parser().parse_args(argv)))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.results", description="What lies in folders of results.")
    kinds = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    one = kinds.add_parser("list", help="every run of a folder")
    one.add_argument("results", type=Path, nargs="?", default=DEFAULT, help="folder of results (default: results)")
    one = kinds.add_parser("diff", help="two folders as paired runs: the same task, model and method")
    one.add_argument("first", type=Path, metavar="A", help="folder of results")
    one.add_argument("second", type=Path, metavar="B", help="folder of results; differences are B minus A")
    one = kinds.add_parser("rm", help="remove runs, after a question")
    one.add_argument(
        "folders",
        type=Path,
        nargs="+",
        metavar="FOLDER",
        help="a run's own folder; or a folder of results, with one of the next three",
    )
    one.add_argument(
        "--unfinished",
        action="store_true",
        help="those that are not finished, failed ones included; none that cannot be read",
    )
    one.add_argument("--failed", action="store_true", help="those that failed")
    one.add_argument(
        "--match",
        action="append",
        default=[],
        metavar="PATTERN",
        help="those whose <task>/<model>/<method>-<hash> fits, as '*/vcd-*'; given again, those that fit any",
    )
    one.add_argument("--yes", action="store_true", help="ask nothing")
    return parser


def _run(options: argparse.Namespace) -> int:
    run: dict[str, Callable[[argparse.Namespace], int]] = {"list": _list, "diff": _diff, "rm": _rm}
    return run[options.command](options)


def _list(options: argparse.Namespace) -> int:
    print_runs(runs_below(options.results))
    return 0


def _diff(options: argparse.Namespace) -> int:
    pairs, problems = paired_runs(runs_below(options.first), runs_below(options.second))
    return 0 if print_pairs([compare_pair(*pair) for pair in pairs], problems) else 1


def _rm(options: argparse.Namespace) -> int:
    printer = Printer(None)
    chosen = {str(one.folder.path.resolve()): one for folder in options.folders for one in _chosen(folder, options)}
    found = list(chosen.values())
    for one in found:
        printer.path(f"{one.folder.path}  ({one.status}, {len(one.samples)} samples)")
    if not found:
        printer.line("nothing to remove")
        return 0
    if not options.yes:
        if not sys.stdin.isatty():
            raise ConfigError(
                f"nothing is removed: got no terminal to ask about {len(found)} runs; expected an answer. Give --yes."
            )
        if input(f"Remove {len(found)} runs? [y/N] ").strip().lower() not in ("y", "yes"):
            printer.line("nothing removed")
            return 1
    left = remove(found)
    for problem in left.kept:
        printer.line(f"not removed: {problem}")
    for path in left.not_empty:
        printer.path(f"removed, but other files are left: {path}")
    return 1 if left.kept else 0


def _chosen(folder: Path, options: argparse.Namespace) -> Iterator[StoredRun]:
    itself = as_run(folder)
    filtered = options.unfinished or options.failed or options.match
    if itself is None and not filtered:
        raise ConfigError(
            f"no folder of a run: got {folder} without {RUN_FILE} and {SAMPLES_FILE}; expected "
            "<results>/<task>/<model>/<method>-<hash>. Name one, or give --unfinished, --failed or --match."
        )
    for one in [look(itself)] if itself is not None else runs_below(folder):
        name = "/".join(one.folder.path.parts[-3:])
        if (
            not (options.unfinished and one.status in ("finished", "unreadable"))
            and not (options.failed and one.status != "failed")
            and (not options.match or any(fnmatch.fnmatchcase(name, pattern) for pattern in options.match))
        ):
            yield one


if __name__ == "__main__":
    sys.exit(main())
