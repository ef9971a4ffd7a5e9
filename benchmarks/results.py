"""Folders of results: `python -m benchmarks.results list|diff|rm` says what lies there, compares two, and clears up."""

from __future__ import annotations

import argparse
import fnmatch
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from scr import ConfigError, SCRError

from .printing.arguments import Parser, guarded
from .printing.console import LABELS, Page, interval_text, value_text
from .records import RecordError, RunRecord, SampleRecord
from .running.rescoring import first_images
from .stats import Comparison, holm
from .store import RUN_FILE, SAMPLES_FILE, FolderInUseError, RunFolder, find_runs
from .tasks import UnknownTaskError, load_task
from .tasks.base import Scores, Task

DEFAULT = Path("results")
"""Where `benchmarks.run` writes unless told otherwise."""


class Found(NamedTuple):
    """A run's folder and what it holds; `problem` is why that cannot be told, else None."""

    folder: RunFolder
    record: RunRecord | None
    samples: Sequence[SampleRecord]
    problem: str | None

    @property
    def row(self) -> str:
        """The method, with the adapter and the prompt variant where there are any."""
        if self.record is None:
            return self.folder.method
        extras = [self.record.adapter] if self.record.adapter else []
        extras += [f"prompt {self.record.prompt}"] if self.record.prompt != "default" else []
        return ", ".join([self.record.method, *extras])

    @property
    def status(self) -> str:
        """As recorded; "unreadable" where it cannot be read, "no record" where a kill came before one was written."""
        return "unreadable" if self.problem else self.record.status if self.record else "no record"


class Paired(NamedTuple):
    """Two runs of one task, model and method, and how they differ; a problem is why they were not compared."""

    first: Found
    second: Found
    scores: tuple[Scores, Scores] | None
    comparison: Comparison | None
    problem: str | None


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
    one.add_argument("--unfinished", action="store_true", help="those that are not finished, failed ones included")
    one.add_argument("--failed", action="store_true", help="those that failed")
    one.add_argument("--match", metavar="PATTERN", help="those whose <task>/<model>/<method>-<hash> fits, as '*/vcd-*'")
    one.add_argument("--yes", action="store_true", help="ask nothing")
    return parser


def _run(options: argparse.Namespace) -> int:
    run: dict[str, Callable[[argparse.Namespace], int]] = {"list": _list, "diff": _diff, "rm": _rm}
    return run[options.command](options)


def look(folder: RunFolder) -> Found:
    """Read a run, whatever is wrong with it."""
    try:
        return Found(folder, folder.read_run(), folder.samples(), None)
    except (RecordError, OSError) as error:
        return Found(folder, None, (), str(error))


def paired_runs(first: Sequence[Found], second: Sequence[Found]) -> tuple[list[tuple[Found, Found]], list[str]]:
    """Runs of one task, model and row: those of equal configuration, else those that are alone on either side.

    Returns:
        The pairs, and sentences about runs without a partner.
    """
    pairs: list[tuple[Found, Found]] = []
    problems: list[str] = []
    for key in dict.fromkeys(map(_key, (*first, *second))):
        sides = [[one for one in found if _key(one) == key] for found in (first, second)]
        by_digest = [{one.folder.digest: one for one in side} for side in sides]
        same = [digest for digest in by_digest[0] if digest in by_digest[1]]
        pairs += [(by_digest[0][digest], by_digest[1][digest]) for digest in same]
        rest = [[one for one in side if one.folder.digest not in same] for side in sides]
        if len(rest[0]) == len(rest[1]) == 1:
            pairs.append((rest[0][0], rest[1][0]))
        elif any(rest):
            problems.append(f"{', '.join(key)}: got {len(rest[0])} runs in A and {len(rest[1])} in B without a partner")
    return pairs, problems


def compare_pair(first: Found, second: Found) -> Paired:
    """The paired differences of two runs, second minus first, on the samples that both have."""
    if first.record is None or second.record is None:
        return Paired(first, second, None, None, first.problem or second.problem or "no run.json")
    try:
        task = load_task(first.record.task)
        records = [first_images(one.samples, one.record.limit) for one in (first, second) if one.record]
        comparison = task.compare(*records)
        return Paired(first, second, _shared_scores(task, *records), comparison, None)
    except (RecordError, UnknownTaskError, SCRError, ValueError) as error:
        return Paired(first, second, None, None, str(error))


def remove(found: Sequence[Found], page: Page) -> int:
    """Remove runs, each under its lock; the number of those that are still there, which is said."""
    left = 0
    for one in found:
        try:
            gone = one.folder.remove()
        except (FolderInUseError, OSError) as error:
            page.line(f"not removed: {error}")
            left += 1
            continue
        if not gone:
            page.path(f"removed, but other files are left: {one.folder.path}")
    return left


def _list(options: argparse.Namespace) -> int:
    page = Page(None)
    found = _runs(options.results)
    table = page.table("task", "model", "run", "status", "images", "samples", "created")
    for one in found:
        images = len({sample.image for sample in one.samples})
        created = one.record.created[:16].replace("T", " ") if one.record else "–"
        cells = (one.row, one.status, str(images), str(len(one.samples)), created)
        table.add_row(one.folder.task, one.folder.model, *cells)
    page.add(table)
    for one in found:
        page.path(str(one.folder.path))
        if one.problem or (one.record and one.record.error):
            page.line(f"  {one.status}: {one.problem or (one.record and one.record.error)}")
    return 0


def _diff(options: argparse.Namespace) -> int:
    page = Page(None)
    pairs, problems = paired_runs(_runs(options.first), _runs(options.second))
    compared = [compare_pair(*pair) for pair in pairs]
    done = [one for one in compared if one.comparison is not None]
    adjusted = iter(holm([one.comparison.mcnemar_p for one in done if one.comparison]))
    for one in compared:
        page.line(f"{one.first.folder.task} · {one.first.folder.model} · {one.first.row}", style="bold")
        page.path(f"A {one.first.folder.path}\nB {one.second.folder.path}")
        if one.comparison is None or one.scores is None:
            page.line(f"  not compared: {one.problem}\n")
        else:
            _print_pair(page, one.scores, one.comparison, next(adjusted))
    for problem in problems:
        page.line(f"not compared: {problem}")
    if done:
        page.line(
            "Rates in %. B − A on the samples that both have, with 95 % intervals of a bootstrap over images, the same "
            f"images drawn for both; McNemar's exact p is adjusted for {len(done)} comparisons (Holm)."
        )
    return 0 if done else 1


def _rm(options: argparse.Namespace) -> int:
    page = Page(None)
    chosen = {str(one.folder.path.resolve()): one for folder in options.folders for one in _chosen(folder, options)}
    found = list(chosen.values())
    for one in found:
        page.path(f"{one.folder.path}  ({one.status}, {len(one.samples)} samples)")
    if not found:
        page.line("nothing to remove")
        return 0
    if not options.yes:
        if not sys.stdin.isatty():
            raise ConfigError(
                f"nothing is removed: got no terminal to ask about {len(found)} runs; expected an answer. Give --yes."
            )
        if input(f"Remove {len(found)} runs? [y/N] ").strip().lower() not in ("y", "yes"):
            page.line("nothing removed")
            return 1
    return 1 if remove(found, page) else 0


def _chosen(folder: Path, options: argparse.Namespace) -> Iterator[Found]:
    itself = _as_run(folder)
    filtered = options.unfinished or options.failed or options.match is not None
    if itself is None and not filtered:
        raise ConfigError(
            f"no folder of a run: got {folder} without {RUN_FILE} and {SAMPLES_FILE}; expected "
            "<results>/<task>/<model>/<method>-<hash>. Name one, or give --unfinished, --failed or --match."
        )
    for one in [look(itself)] if itself is not None else _runs(folder):
        name = "/".join(one.folder.path.parts[-3:])
        if (
            not (options.unfinished and one.status == "finished")
            and not (options.failed and one.status != "failed")
            and (options.match is None or fnmatch.fnmatchcase(name, options.match))
        ):
            yield one


def _as_run(path: Path) -> RunFolder | None:
    """The run whose folder this is; None where it is none."""
    path = path.resolve()
    if len(path.parts) < 4:
        return None
    return next((one for one in find_runs(path.parents[2]) if one.path == path), None)


def _runs(root: Path) -> list[Found]:
    if not root.is_dir():
        raise ConfigError(
            f"no folder of results: got {root}; expected what --output-dir of benchmarks.run named. Check the path."
        )
    return [look(folder) for folder in find_runs(root)]


def _key(found: Found) -> tuple[str, str, str]:
    return found.folder.task, found.folder.model, found.row


def _shared_scores(task: Task, first: Sequence[SampleRecord], second: Sequence[SampleRecord]) -> tuple[Scores, Scores]:
    shared = {one.id for one in first} & {one.id for one in second}
    scores = [task.score([one for one in records if one.id in shared]) for records in (first, second)]
    return scores[0], scores[1]


def _print_pair(page: Page, scores: tuple[Scores, Scores], comparison: Comparison, p: float) -> None:
    units = scores[0].units
    table = page.table("", "A", "B", "B − A", "95 % interval")
    for name, found in comparison.differences.items():
        values = [value_text(name, one.metrics.get(name), units) for one in scores]
        interval = interval_text(name, found.interval, units, sign=True)
        table.add_row(
            LABELS.get(name, name.replace("_", " ")), *values, value_text(name, found.value, units, sign=True), interval
        )
    page.add(table)
    lost = f", {comparison.unpaired} without a partner" if comparison.unpaired else ""
    page.line(
        f"{comparison.n} samples on {comparison.images} images{lost}: {comparison.changed} answers changed, "
        f"{comparison.right_to_wrong} right → wrong, {comparison.wrong_to_right} wrong → right, McNemar's p {p:.3f}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
