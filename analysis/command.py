"""What the command lines of this folder have in common: read a folder, print, write files, say what is missing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from .finding import Analysis, Finding
from .load import NothingToShowError, Results, ResultsError, load_results
from .style import FORMATS, MissingDependencyError, write_plot, write_table
from .tables import as_markdown


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with status 2."""
        self.exit(2, f"error: {message}. See --help.\n")


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
    parser = Parser(prog=f"python -m {program}", description=description, allow_abbrev=False)
    parser.add_argument("results", type=Path, help="folder that benchmarks.run wrote")
    parser.add_argument(
        "--out", type=Path, default=Path("figures"), help="folder for figures and tables (default: figures)"
    )
    parser.add_argument(
        "--formats", default=",".join(FORMATS), help=f"of figures, with commas (default: {','.join(FORMATS)})"
    )
    if len(analyses) > 1:
        parser.add_argument("--only", default=None, help=f"of {', '.join(analyses)}, with commas (default: all)")
    try:
        options = parser.parse_args(argv)
        formats = _choose(parser, "--formats", options.formats, FORMATS)
        names = _choose(parser, "--only", getattr(options, "only", None) or ",".join(analyses), tuple(analyses))
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 2

    def show(results: Results) -> int:
        said: set[str] = set()
        shown = [_show(name, analyses[name], results, options.out, formats, said) for name in names]
        return 0 if any(shown) else 1

    return with_results(options.results, show)


def with_results(folder: Path, run: Callable[[Results], int]) -> int:
    """Read a folder of results and run a command on it; return its exit status.

    What was wrong with some of the runs is said afterwards. Where the folder or a package will not do, that is said in
    one line, and the status is 2.
    """
    try:
        results = load_results(folder)
        status = run(results)
    except (ResultsError, MissingDependencyError) as error:
        print("error:", error, file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"error: cannot write: got {error}; expected a folder that can be written. Give another --out.",
            file=sys.stderr,
        )
        return 2
    for problem in results.problems:
        print("note:", problem, file=sys.stderr)
    return status


def write_finding(finding: Finding, folder: Path, formats: Sequence[str] = FORMATS) -> tuple[list[Path], str | None]:
    """Write the tables and figures of a finding.

    Returns:
        The files; and why there are no figures, None where there are.
    """
    files = [path for table in (*finding.tables, *finding.data) for path in write_table(table, folder)]
    try:
        for draw in finding.plots:
            files += [path for path in write_plot(draw(), folder, formats) if path not in files]
    except MissingDependencyError as error:
        return files, str(error)
    return files, None


def _show(name: str, analysis: Analysis, results: Results, out: Path, formats: Sequence[str], said: set[str]) -> bool:
    """Print and write one analysis; a note that another has said already is not repeated."""
    try:
        findings = analysis(results.runs)
    except NothingToShowError as error:
        print(f"left out: {name}: {error}", file=sys.stderr)
        return False
    for finding in findings:
        print(f"## {finding.title}\n")
        print("\n".join(as_markdown(table) for table in finding.tables))
        for note in dict.fromkeys(finding.notes):
            if note not in said:
                print("-", note)
        said.update(finding.notes)
        files, missing = write_finding(finding, out, formats)
        print("\nwritten:", ", ".join(map(str, files)), "\n")
        if missing:
            print(f"left out: figures of {name}: {missing}", file=sys.stderr)
    return True


def _choose(parser: Parser, flag: str, given: str, known: Sequence[str]) -> list[str]:
    names = [name.strip() for name in given.split(",") if name.strip()]
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        parser.error(f"unknown name in {flag}: got {given!r}; expected some of {', '.join(known)}")
    return names
