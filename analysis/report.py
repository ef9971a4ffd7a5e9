"""A page that opens from disk and shows it all: `python -m analysis.report results/ --out report/`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from scr.command.guard import guarded
from scr.command.parser import Parser
from scr.command.types import natural
from scr.files import read_text, write_text
from scr.pages.embedding import script_json, shared
from scr.pages.veil import INK, look

from .command import say, with_results
from .drawing.style import Plot, write_narrow, write_plot, write_table
from .drawing.tables import Table
from .figures import ANALYSES
from .findings.answers import VERDICTS, did_it_help, unanswered
from .findings.finding import Analysis
from .page.browser import INLINE, Browser, write_browser
from .page.samples import OUTCOMES, choose_samples, outcome_table, shown_samples
from .page.shown import ShownTable, show_table
from .reading.load import NothingToShowError, Results, model_labels
from .reading.provenance import provenance, without_folders

PAGE = "index.html"
LIMIT = 2000
"""Samples in the browser where --samples says nothing else."""
_FIGURES = "figures"
_AHEAD = ("forest", "guard", "summary")
"""Analyses that a reader wants before the samples."""


class ShownFigure(NamedTuple):
    """A figure as the page has it: its caption, the drawing and the narrow one, its numbers, its size in CSS pixels."""

    caption: str
    svg: str
    narrow: str | None
    csv: str
    width: int
    height: int


@dataclass(kw_only=True)
class Section:
    """One finding, or why there is none.

    Attributes:
        name: for links to it.
        title: its heading.
        tables: in the order of the finding.
        figures: likewise.
        notes: sentences.
        left_out: why there is nothing.
    """

    name: str
    title: str
    tables: list[ShownTable] = field(default_factory=list)
    figures: list[ShownFigure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: str = ""


def build_report(
    results: Results,
    out: Path,
    *,
    images: Sequence[Path] = (),
    limit: int = LIMIT,
    analyses: Mapping[str, Analysis] | None = None,
) -> Path:
    """Write the page, its figures, and the samples that it loads.

    Args:
        results: what is shown.
        out: the report's folder; made if absent.
        images: folders that hold the pictures that were asked about; those of the lab are found without.
        limit: most samples in the browser.
        analyses: name → analysis; None takes all.

    Returns:
        The page.

    Raises:
        DataFileError: where a part of the page, or a picture, cannot be read.
        OSError: where the folder cannot be written.
    """
    environment = _environment()
    out.mkdir(parents=True, exist_ok=True)
    sections: list[Section] = []
    said: set[str] = set()
    for name, analysis in (ANALYSES if analyses is None else analyses).items():
        sections += _sections(name, analysis, results, out, said)
    groups = shown_samples(results.runs)
    samples = choose_samples(groups, limit)
    browser = write_browser(samples, out, images)
    outcomes = outcome_table(groups)
    page = environment.get_template("report.html").render(
        title=f"{results.root.resolve().name}: {_counted(results)}",
        version=_version(),
        runs=len(results.runs),
        problems=[
            (without_folders(str(results.folders.get(one, "")), results.root), without_folders(one, results.root))
            for one in results.problems
        ],
        answers=did_it_help(results.runs),
        verdicts=VERDICTS,
        alone=unanswered(results.runs),
        ahead=[section for section in sections if section.name.partition("-")[0] in _AHEAD],
        sections=[section for section in sections if section.name.partition("-")[0] not in _AHEAD],
        outcomes=_shown_table(outcomes, out) if outcomes.rows else None,
        outcome_meanings=OUTCOMES,
        samples=len(samples),
        of_samples=sum(map(len, groups)),
        inline=min(INLINE, len(samples)),
        filters=_filters(browser),
        browser_problems=[without_folders(one, results.root) for one in browser.problems],
        provenance=provenance(results.runs),
        # Not escaped again: our own style and script, and JSON that cannot end its element.
        data=script_json(browser.data | {"look": look()}),
        style=shared("look.css") + _template("report.css"),
        script=shared("veil.js") + _template("report.js"),
        ink=INK,
    )
    write_text(out / PAGE, page)
    return out / PAGE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    return guarded(lambda: _run(argv))


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(
        prog="python -m analysis.report",
        description="A page with all tables, figures, settings and samples; it opens from disk.",
    )
    parser.add_argument("results", type=Path, help="folder that benchmarks.run wrote")
    parser.add_argument(
        "--out", type=Path, default=Path("report"), metavar="DIR", help="folder for the page (default: report)"
    )
    parser.add_argument(
        "--images",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder with the pictures that were asked about, sub-folders included; may be given again. The lab's are "
        "found without",
    )
    parser.add_argument(
        "--samples", type=natural, default=LIMIT, metavar="N", help=f"most samples in the browser (default: {LIMIT})"
    )
    return parser


def _run(argv: Sequence[str] | None) -> int:
    parser = build_parser()
    options = parser.parse_args(argv)
    for folder in options.images:
        if not folder.is_dir():
            parser.error(f"no folder of images: got {str(folder)!r}; expected a folder")

    def build(results: Results) -> int:
        say(f"written: {build_report(results, options.out, images=options.images, limit=options.samples)}")
        return 0

    return with_results(options.results, build)


def _sections(name: str, analysis: Analysis, results: Results, out: Path, said: set[str]) -> list[Section]:
    try:
        findings = analysis(results.runs)
    except NothingToShowError as error:
        return [Section(name=name, title=name, left_out=without_folders(str(error), results.root))]
    sections = []
    for count, finding in enumerate(findings):
        section = Section(name=name if not count else f"{name}-{count + 1}", title=finding.title)
        section.tables = [_shown_table(table, out) for table in finding.tables]
        for table in finding.data:
            write_table(table, out / _FIGURES)
        notes = [note for note in dict.fromkeys(finding.notes) if note not in said]
        said.update(notes)
        section.figures = [_shown_figure(draw(), out) for draw in finding.plots]
        section.notes = [without_folders(note, results.root) for note in notes]
        sections.append(section)
    return sections


def _shown_figure(plot: Plot, out: Path) -> ShownFigure:
    write_plot(plot, out / _FIGURES, ("svg",))
    stem = f"{_FIGURES}/{plot.name}"
    # Type of 8 points suits a printed column; a screen takes it larger.
    width, height = (round(1.4 * 96 * inches) for inches in plot.figure.get_size_inches())
    written = write_narrow(plot, out / _FIGURES)
    narrow = None if written is None else f"{_FIGURES}/{written.name}"
    return ShownFigure(plot.caption, f"{stem}.svg", narrow, f"{stem}.csv", width, height)


def _shown_table(table: Table, out: Path) -> ShownTable:
    return show_table(table, [f"{_FIGURES}/{path.name}" for path in write_table(table, out / _FIGURES)])


def _filters(browser: Browser) -> list[tuple[str, str, list[str]]]:
    """(name, label, choices) of each select, where there is a choice."""
    labels = browser.data["labels"]
    named = (("outcome", "Outcome"), ("row", "Method"), ("task", "Task"), ("model", "Model"))
    return [(name, label, labels[name]) for name, label in named]


def _counted(results: Results) -> str:
    models, tasks = len(model_labels(results.runs)), len({run.record.task for run in results.runs})
    parts = ((len(results.runs), "run"), (models, "model"), (tasks, "task"))
    return ", ".join(f"{count} {word}{'s' * (count != 1)}" for count, word in parts)


def _version() -> str:
    try:
        return metadata.version("scr-vlm")
    except metadata.PackageNotFoundError:
        return "not installed"


def _template(name: str) -> str:
    return read_text(Path(__file__).parent / "page" / "templates" / name)


def _environment() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


if __name__ == "__main__":
    sys.exit(main())
