"""Tables of the page: words for every name, intervals under numbers, and no line wider than the page."""

import json
from pathlib import Path

import pytest
from synthetic_results import many_runs

from analysis.drawing.tables import ShownCell, Table, shown_cells, split_cells
from analysis.figures import ANALYSES
from analysis.page.shown import LINE, ShownColumn, show_table
from analysis.page.wording import METRICS, column_words, shown_name, shown_text
from analysis.reading.load import NothingToShowError, load_results
from benchmarks.tasks.amber.rule import CAPTION_RATES, RATES, SUFFIXES
from benchmarks.tasks.mme.rule import SUMS, TASK_NAMES

LAB = Path(__file__).parent.parent / "benchmarks" / "lab"


def table(columns, *rows, percent=()):
    return Table(name="t", title="T", columns=tuple(columns), rows=rows, percent=frozenset(percent))


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """All that all analyses make of questions and captions of several methods."""
    root = tmp_path_factory.mktemp("results")
    many_runs(root)
    runs = load_results(root).runs
    made = []
    for name, analysis in ANALYSES.items():
        try:
            made += [table for finding in analysis(runs) for table in finding.tables]
        except NothingToShowError as error:
            raise AssertionError(name) from error
    return made


def test_every_column_has_words(tables):
    assert len(tables) > 15
    names = {name for table in tables for name in split_cells(table)[0]}
    ends = ("_error",)
    assert {name for name in names if column_words(name) is None and not name.endswith(ends)} <= set()


def test_every_metric_has_words():
    recorded = [json.loads(path.read_text()) for path in sorted((LAB / "findings").glob("*.json"))]
    names = set(_metrics(recorded))
    assert {"chair_i", "hallucination_rate"} <= names
    names |= {*CAPTION_RATES, *(f"{rate}{suffix}" for rate in RATES for suffix in SUFFIXES), *SUMS}
    names |= {f"{name}_{part}" for name in TASK_NAMES for part in ("acc", "acc_plus", "precision", "recall")}
    assert {name for name in names if column_words(name) is None and "_" in name} == set()
    assert shown_name("accuracy_existence", percent=True) == "right answers, existence, %"
    assert shown_name("code_reasoning_acc_plus") == "code reasoning, images with both right"
    assert shown_name("chair_s", percent=True) == "captions with a made-up object, %"
    assert shown_name("recall_change", percent=True) == "change of recall, points"
    assert shown_name("something_else") == "something else"
    assert shown_text("metric", "chair_i") == METRICS["chair_i"]
    assert shown_text("row", "chair_i") == "chair_i", "a method may be called anything"


def _metrics(value):
    if isinstance(value, dict):
        for name, one in value.items():
            if name == "metrics" and isinstance(one, dict):
                yield from one
            else:
                yield from _metrics(one)
    elif isinstance(value, list):
        for one in value:
            yield from _metrics(one)


def test_no_line_is_wider_than_the_page_and_no_column_is_lost(tables):
    cut = 0
    for one in tables:
        shown = show_table(one, [])
        labels = sum(column.width for column in shown.labels)
        for part in shown.parts:
            assert labels + sum(column.width for column in part) <= LINE, (one.name, [column.words for column in part])
        cut += len(shown.parts) > 1
        names = [name for name in split_cells(one)[0] if not name.endswith("_error")]
        kept = [column.words for column in (*shown.labels, *(column for part in shown.parts for column in part))]
        kept += [words for words, _ in shown.same]
        assert sorted(kept) == sorted(shown_name(name, percent=name in one.percent) for name in names)
        assert {len(column.cells) for column in shown.labels} <= {shown.rows}
    assert cut, "MME's 28 columns need several lines"


def test_a_width_is_that_of_the_longest_piece_that_cannot_be_broken():
    number = ShownColumn("x", "x", True, (ShownCell("0.5", "−0.123 to 0.123"),))
    assert number.width == 16
    text = ShownColumn("row", "method", False, (ShownCell("a few words that wrap", ""), ShownCell("y" * 20, "")))
    assert (text.width, text.word) == (22, 20)
    assert ShownColumn("row", "method", False, (ShownCell("y" * 90, ""),)).word == 24
    assert ShownColumn("x", "twelve letters in four lines here", True, (ShownCell("1", ""),)).width == 11


def test_cells_of_the_page():
    made = table(
        ("model", "task", "row", "x", "x_low", "x_high", "p", "p_error", "n", "images"),
        ("m", "a", "none", -0.5, -0.75, 0.25, 0.25, 0.01, 1, 9),
        ("m", "a", "scr-2", 0.5, None, None, None, None, 2, 9),
        ("m", "b", "scr-2", 0.5, None, None, 1.0, None, 2, 9),
        percent=("x", "x_low", "x_high"),
    )
    shown = show_table(made, ["t.csv"])
    assert shown.same == [("model", "m"), ("images", "9")]
    assert [column.words for column in shown.labels] == ["task", "method"]
    assert shown.spans == [[2, 0, 1], [1, 1, 1]]
    assert [column.words for column in shown.parts[0]] == ["x, %", "p", "n"]
    assert shown.parts[0][0].cells[:2] == (("−50.0", "−75.0 to 25.0"), ("50.0", ""))
    assert shown.parts[0][1].cells == (("0.250", "± 0.010"), ("–", ""), ("1.000", ""))
    assert shown.labels[1].cells[1].text == "scr-2", "a hyphen of a name stays one"
    assert shown_cells(made)[1][0][3] == "-50.0 (-75.0 to 25.0)", "files have them in one line"


def test_what_all_rows_say_is_said_once_but_one_label_stays():
    alike = show_table(table(("model", "row", "x"), ("m", "scr", 1.0), ("m", "scr", 2.0)), [])
    assert (alike.same, [column.name for column in alike.labels]) == ([("model", "m")], ["row"])
    single = show_table(table(("model", "row", "x"), ("m", "scr", 1.0)), [])
    assert (single.same, len(single.labels)) == ([], 2)
    nothing = show_table(table(("model", "x")), [])
    assert (nothing.rows, nothing.spans) == (0, [[], []])
