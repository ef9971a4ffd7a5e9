"""What the command lines of this folder have in common: read a folder, print, write files, say what is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from scr.command.guard import guarded
from scr.command.parser import Parser
from scr.command.types import names
from scr.errors import suggestion

from .drawing.style import FORMATS, write_plot, write_table
from .drawing.tables import as_markdown
from .findings.finding import Analysis, Finding
from .reading.load import NothingToShowError, Results, load_results


def run_command(
    program: str, description: str, analyses: Mapping[str, Analysis], argv: Sequence[str] | None = None
) -> int:
    """Run analyses of a folder of results.

    Args:
        program: the module, for the help.
        description: one sentence, for the help.
        analyses: name → what computes it.
        argv: arguments; None takes those of the process.

    Returns:
        0 if something was shown, 1 if the records hold nothing of what was asked, 2 for an argument or a folder that
        cannot be used.
    """
    return guarded(lambda: _run(program, description, analyses, argv))


def with_results(folder: Path, run: Callable[[Results], int]) -> int:
    """Read a folder of results and run a command on it; return its exit status.

    What was wrong with some of the runs is said afterwards. Where a folder cannot be written, that is said in one line,
    and the status is 2: what `run` reads it reads with `scr.files`, whose errors are of another kind.

    Raises:
        ResultsError: where there is no run that can be read.
    """
    results = load_results(folder)
    try:
        status = run(results)
    except OSError as error:
        print(
            f"error: cannot write: got {error}; expected a folder that can be written. Give another --out.",
            file=sys.stderr,
        )
        return 2
    for problem in results.problems:
        print("note:", problem, file=sys.stderr)
    return status


def write_finding(finding: Finding, folder: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write the tables and figures of a finding; the files."""
    files = [path for table in (*finding.tables, *finding.data) for path in write_table(table, folder)]
    for draw in finding.plots:
        files += [path for path in write_plot(draw(), folder, formats) if path not in files]
    return files


def build_parser(program: str, description: str, analyses: Mapping[str, Analysis]) -> Parser:
    """The command line of `run_command`."""
    parser = Parser(prog=f"python -m {program}", description=description)
    parser.add_argument("results", type=Path, help="folder that benchmarks.run wrote")
    parser.add_argument(
        "--out", type=Path, default=Path("figures"), metavar="DIR", help="figures and tables (default: figures)"
    )
    parser.add_argument(
        "--formats",
        type=names,
        default=tuple(FORMATS),
        metavar="NAME[,NAME]",
        help=f"of figures (default: {','.join(FORMATS)})",
    )
    if len(analyses) > 1:
        parser.add_argument(
            "--only",
            type=names,
            default=tuple(analyses),
            metavar="NAME[,NAME]",
            help=f"of {', '.join(analyses)} (default: all)",
        )
    return parser


def _run(program: str, description: str, analyses: Mapping[str, Analysis], argv: Sequence[str] | None) -> int:
    parser = build_parser(program, description, analyses)
    options = parser.parse_args(argv)
    chosen = getattr(options, "only", tuple(analyses))
    _check(parser, "--formats", options.formats, FORMATS)
    _check(parser, "--only", chosen, tuple(analyses))

    def show(results: Results) -> int:
        said: set[str] = set()
        shown = [_show(name, analyses[name], results, options.out, options.formats, said) for name in chosen]
        return 0 if any(shown) else 1

    return with_results(options.results, show)


def say(text: str) -> None:
    """Print a line; what the output's encoding lacks is printed as its escape."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def say_finding(finding: Finding, said: Collection[str] = ()) -> None:
    """Print a finding: its title, its tables, and its notes but those that were `said` before."""
    say(f"## {finding.title}\n")
    say("\n".join(as_markdown(table) for table in finding.tables))
    for note in dict.fromkeys(finding.notes):
        if note not in said:
            say(f"- {note}")


def _show(name: str, analysis: Analysis, results: Results, out: Path, formats: Sequence[str], said: set[str]) -> bool:
    """Print and write one analysis; a note that another has said already is not repeated."""
    try:
        findings = analysis(results.runs)
    except NothingToShowError as error:
        print(f"left out: {name}: {error}", file=sys.stderr)
        return False
    for finding in findings:
        say_finding(finding, said)
        said.update(finding.notes)
        files = write_finding(finding, out, formats)
        say(f"\nwritten: {', '.join(map(str, files))} \n")
    return True


def _check(parser: Parser, flag: str, given: Sequence[str], known: Sequence[str]) -> None:
    if wrong := [name for name in given if name not in known]:
        near = suggestion(wrong[0], known, "Choose among them")
        parser.error(f"unknown name in {flag}: got {wrong[0]!r}; expected some of {', '.join(known)}. {near}")
