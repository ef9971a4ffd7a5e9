"""What `benchmarks.results` prints: the runs of a folder, and how those of two folders differ."""

from __future__ import annotations

from collections.abc import Sequence

from ..stats import Comparison, holm
from ..studies.stored import Paired, StoredRun
from ..tasks.base import Scores
from .console import LABELS, Printer, interval_text, value_text


def print_runs(runs: Sequence[StoredRun]) -> None:
    """Print a table of runs, and below it their folders and what is wrong with them."""
    printer = Printer(None)
    table = printer.table("task", "model", "run", "status", "images", "samples", "created")
    for one in runs:
        images = len({sample.image for sample in one.samples})
        created = one.record.created[:16].replace("T", " ") if one.record else "–"
        cells = (one.row, one.status, str(images), str(len(one.samples)), created)
        table.add_row(one.folder.task, one.folder.model, *cells)
    printer.add(table)
    for one in runs:
        printer.path(str(one.folder.path))
        if one.problem or (one.record and one.record.error):
            printer.line(f"  {one.status}: {one.problem or (one.record and one.record.error)}")


def print_pairs(pairs: Sequence[Paired], problems: Sequence[str]) -> int:
    """Print how the runs of two folders differ, and why some were not compared; how many were."""
    printer = Printer(None)
    done = [one for one in pairs if one.comparison is not None]
    adjusted = iter(holm([one.comparison.mcnemar_p for one in done if one.comparison]))
    for one in pairs:
        printer.line(f"{one.first.folder.task} · {one.first.folder.model} · {one.first.row}", style="bold")
        printer.path(f"A {one.first.folder.path}\nB {one.second.folder.path}")
        if one.comparison is None or one.scores is None:
            printer.line(f"  not compared: {one.problem}\n")
        else:
            _print_pair(printer, one.scores, one.comparison, next(adjusted))
    for problem in problems:
        printer.line(f"not compared: {problem}")
    if done:
        printer.line(
            "Rates in %. B − A on the samples that both have, with 95 % intervals of a bootstrap over images, the same "
            f"images drawn for both; McNemar's exact p is adjusted for {len(done)} comparisons (Holm)."
        )
    return len(done)


def _print_pair(printer: Printer, scores: tuple[Scores, Scores], comparison: Comparison, p: float) -> None:
    units = scores[0].units
    table = printer.table("", "A", "B", "B − A", "95 % interval")
    for name, found in comparison.differences.items():
        values = [value_text(name, one.metrics.get(name), units) for one in scores]
        interval = interval_text(name, found.interval, units, sign=True)
        table.add_row(
            LABELS.get(name, name.replace("_", " ")), *values, value_text(name, found.value, units, sign=True), interval
        )
    printer.add(table)
    lost = f", {comparison.unpaired} without a partner" if comparison.unpaired else ""
    printer.line(
        f"{comparison.n} samples on {comparison.images} images{lost}: {comparison.changed} answers changed, "
        f"{comparison.right_to_wrong} right → wrong, {comparison.wrong_to_right} wrong → right, McNemar's p {p:.3f}\n"
    )
