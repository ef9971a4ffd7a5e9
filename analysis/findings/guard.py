"""What each difference cost: recall, length and ability beside every rate, and the trivial change next to it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .._benchmarks import Bounds, Comparison, Difference, LengthControl, compare_tables, control_length
from ..drawing.tables import Cell, Table
from ..reading.load import NothingToShowError, Run
from ..reading.pairs import Pair, caption_pairs, compare_rates, find_pairs
from .finding import Finding
from .forest import CAPTIONS
from .frontier import Identity, identity
from .summary import run_metrics
from .trivial import Beside, beside_trivial, trivial_plots, trivial_table


class Guarded(NamedTuple):
    """A pair, and what stands beside its rate.

    Attributes:
        pair: of yes/no answers, or of graded captions.
        metric: name of the rate.
        compared: the differences.
        length: of captions.
        beside: the nearest trivial change; None where a rate is undefined.
    """

    pair: Pair
    metric: str
    compared: Comparison
    length: LengthControl | None
    beside: Beside | None

    @property
    def rate(self) -> Difference | None:
        """Method minus baseline."""
        return self.compared.differences.get(self.metric)

    @property
    def recall(self) -> Difference | None:
        """Method minus baseline."""
        return self.compared.differences.get("recall")


@functools.lru_cache(maxsize=1)
def guarded_pairs(runs: tuple[Run, ...]) -> tuple[Guarded, ...]:
    """All pairs that have a rate of made-up things; the last runs are remembered, as the page asks twice."""
    found = find_pairs(runs)
    guarded = [
        Guarded(pair, "hallucination_rate", compare_rates(pair.before, pair.after), None, beside_trivial(pair, runs))
        for pair in found.pairs
        if pair.baseline.is_yes_no
    ]
    guarded += [
        Guarded(
            pair,
            "chair_i",
            compare_tables(CAPTIONS.table(pair.before), CAPTIONS.table(pair.after)),
            control_length(pair.before, pair.after),
            beside_trivial(pair, runs),
        )
        for pair in caption_pairs(found).pairs
    ]
    return tuple(guarded)


def guard_tables(runs: Sequence[Run]) -> list[Table]:
    """Of questions and of captions, a row per pair: the rate's change, and what stands beside it.

    Raises:
        NothingToShowError: where there is no pair.
    """
    guarded = guarded_pairs(tuple(runs))
    if not guarded:
        raise NothingToShowError(
            f"nothing to guard: got rows {sorted({run.row for run in runs})} without a method and its baseline on "
            "yes/no questions or graded captions; expected one pair at least. "
            "Run `python -m benchmarks.run --method scr --tasks pope,chair`."
        )
    abilities = ability_changes(runs)
    metrics = {run.record.task: run.record.ability for run in runs if run.record.ability is not None}
    questions = [one for one in guarded if one.length is None]
    captions = [one for one in guarded if one.length is not None]
    named = (("guard", "questions", questions), ("guard_captions", "captions", captions))
    return [_guard_table(name, what, part, abilities, metrics) for name, what, part in named if part]


def _guard_table(
    name: str,
    what: str,
    guarded: Sequence[Guarded],
    abilities: Mapping[Identity, Mapping[str, float]],
    metrics: Mapping[str, str],
) -> Table:
    known = [abilities.get(identity(one.pair.method), {}) for one in guarded]
    shown = [task for task in metrics if any(task in found for found in known)]
    lengths = ("words_change", *_triple("same_length_change")) if what == "captions" else ()
    columns = (
        "model", "task", "row", "metric", *_triple("change"), *_triple("recall_change"), *lengths, "frontier",
        *(f"{task}_change" for task in shown), what,
    )  # fmt: skip
    lines: list[tuple[Cell, ...]] = []
    for one, found in zip(guarded, known, strict=True):
        pair, length = one.pair, one.length
        held = () if length is None else (length.words[1] - length.words[0], *_cells(length.residual))
        lines.append(
            (
                pair.model, pair.task, pair.row, one.metric, *_cells(one.rate), *_cells(one.recall), *held,
                one.beside and one.beside.frontier, *(found.get(task) for task in shown), len(pair.before),
            )
        )  # fmt: skip
    told = "".join(f" {task}: {metrics[task]}, as recorded, without an interval." for task in shown)
    of_length = (
        " At the same length: made-up mentions per caption that are left when what the number of words explains is off."
        if lengths
        else ""
    )
    return Table(
        name=name,
        title=f"What each change of the rate cost, of {what}",
        columns=columns,
        rows=tuple(lines),
        percent=frozenset(column for column in columns if column.startswith(("change", "recall_change"))),
        notes=(
            f"Method minus baseline on the same {what}.{of_length} Of trivial changes: where the method lies among "
            f"what anyone gets without one, see below. Intervals: 95 %, images resampled.{told}",
        ),
    )


def length_table_of(guarded: Sequence[Guarded]) -> Table:
    """A row per pair of captions: made-up mentions, and how much of their change length explains."""
    lines: list[tuple[Cell, ...]] = []
    for one in guarded:
        if one.length is not None:
            found = one.length
            lines.append(
                (
                    one.pair.model, one.pair.task, one.pair.row, *found.words, found.within, found.exponent,
                    *_cells(found.total), *_cells(found.by_length), *_cells(found.residual), found.n, found.images,
                )
            )  # fmt: skip
    return Table(
        name="length_control",
        title="Made-up mentions per caption: what length explains, and what is left",
        columns=(
            "model", "task", "row", "words_before", "words_after", "within", "exponent", *_triple("mentions_change"),
            *_triple("by_length_change"), *_triple("same_length_change"), "captions", "images",
        ),
        rows=tuple(lines),
        percent=frozenset({"within"}),
        notes=(
            "Poisson regression of the baseline's made-up mentions on its captions' words: a caption of w words has "
            "e^a · w^exponent of them. By length: what that line expects of the method's lengths, minus the baseline. "
            "At the same length: the method, minus what the line expects. Within: share of the method's captions that "
            "are as long as some of the baseline's; for the others the line is an extrapolation. Words are what stands "
            "between blanks. Intervals: 95 %, images resampled, the line fitted again in each.",
        ),
    )  # fmt: skip


def ability_changes(runs: Sequence[Run]) -> dict[Identity, dict[str, float]]:
    """What was done to a model → task of general ability → method minus baseline in its metric, of the same answers.

    A task that was run in several ways, as on two data sets, is left out: neither number belongs to the other tasks.
    """
    found: dict[Identity, dict[str, list[float]]] = {}
    for pair in find_pairs(runs).pairs:
        name = pair.method.record.ability
        whole = len(pair.before) == len(pair.baseline.samples) == len(pair.method.samples)
        if name is None or not whole:
            continue
        before, after = (run_metrics(run).get(name, (None,))[0] for run in (pair.baseline, pair.method))
        if before is not None and after is not None:
            found.setdefault(identity(pair.method), {}).setdefault(pair.task, []).append(after - before)
    return {key: {task: of[0] for task, of in tasks.items() if len(of) == 1} for key, tasks in found.items()}


def guard_findings(runs: Sequence[Run]) -> list[Finding]:
    """What each difference cost, the frontier of trivial changes, and captions at the same length.

    Raises:
        NothingToShowError: where there is no pair.
    """
    tables = guard_tables(runs)
    guarded = guarded_pairs(tuple(runs))
    found = [(one.pair, one.beside) for one in guarded if one.beside is not None]
    findings = [Finding(title="what it cost", tables=tuple(tables))]
    if found:
        below = [f"{pair.model} on {pair.task}, {pair.row}: {one.frontier} ({one.nearest})." for pair, one in found
                 if one.beaten is not None and one.frontier.startswith("below")]  # fmt: skip
        words = f"{len(below)} of {len(found)} comparisons lie below the frontier of trivial changes."
        trivial = trivial_table(found)
        plots = tuple(trivial_plots(found, runs))
        findings.append(Finding(title="beside trivial changes", tables=(trivial,), plots=plots, notes=(words, *below)))
    lengths = length_table_of(guarded)
    if lengths.rows:
        reasons = [
            f"{one.pair.model} on {one.pair.task}, {one.pair.row}: not at the same length, as {one.length.reason}."
            for one in guarded
            if one.length is not None and one.length.reason
        ]
        findings.append(Finding(title="captions at the same length", tables=(lengths,), notes=tuple(reasons)))
    return findings


def _triple(name: str) -> tuple[str, str, str]:
    return name, f"{name}_low", f"{name}_high"


def _cells(difference: Difference | None) -> tuple[float | None, float | None, float | None]:
    if difference is None:
        return None, None, None
    bounds: Bounds = difference.interval or (None, None)
    return difference.value, *bounds
