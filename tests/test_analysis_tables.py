"""Tables as text, and figures as files."""

import csv
import dataclasses
import io

import matplotlib
import numpy as np
import pytest

from analysis.drawing.panels import draw_intervals, floats, legend_below, panel_grid
from analysis.drawing.style import (
    COLORS,
    COLUMN_WIDTH,
    FORMATS,
    PAGE_WIDTH,
    Plot,
    look,
    new_figure,
    paper_look,
    write_narrow,
    write_plot,
    write_table,
)
from analysis.drawing.tables import Table, as_latex, as_markdown, by_model, format_cell

TABLE = Table(
    name="some_table",
    title="Rates & more",
    columns=("model", "rate", "rate_low", "rate_high", "n", "best", "p"),
    rows=(("a_b|c", 0.12345, 0.1, 0.2, 7, True, 1e-5), ("d", None, None, None, 1200, False, float("nan"))),
    percent=frozenset({"rate", "rate_low", "rate_high"}),
    notes=("A note\non two lines.",),
)


def test_markdown_puts_intervals_beside_values():
    lines = as_markdown(TABLE).splitlines()
    assert lines[0] == "**Rates & more**"
    assert lines[2] == "| model | rate % | n | best | p |"
    assert lines[3] == "| --- | --: | --: | --: | --: |"
    assert lines[4] == r"| a_b\|c | 12.3 (10.0 to 20.0) | 7 | yes | 1.0e-05 |"
    assert lines[5] == "| d | – | 1200 | no | – |"


def test_latex_is_escaped():
    text = as_latex(TABLE)
    assert r"\caption{Rates \& more}" in text
    assert r"\begin{tabular}{lrrrr}" in text
    assert r"a\_b|c & 12.3 (10.0 to 20.0) & 7 & yes & 1.0e-05 \\" in text
    assert r"rate \% & n" in text
    assert text.startswith("% A note on two lines.\n")
    assert as_latex(Table(name="t", title="λ − ~^", columns=("x",), rows=())).count("$") == 4


def test_csv_is_unrounded_and_complete():
    rows = list(csv.reader(io.StringIO(TABLE.to_csv())))
    assert rows[0] == list(TABLE.columns)
    assert rows[1] == ["a_b|c", "0.12345", "0.1", "0.2", "7", "True", "1e-05"]
    assert rows[2] == ["d", "", "", "", "1200", "False", ""]


def test_cells():
    assert [format_cell(one) for one in (None, True, 3, 0.0, 0.5, 1e-6, "x")] == [
        "–",
        "yes",
        "3",
        "0.000",
        "0.500",
        "1.0e-06",
        "x",
    ]
    assert format_cell(1, percent=True) == "100.0"
    assert TABLE.column("n") == [7, 1200]
    assert next(TABLE.records())["best"] is True


def test_a_table_has_a_shape():
    with pytest.raises(ValueError, match=r"does not fit its columns: got \[\(1, 2\)\]"):
        Table(name="t", title="t", columns=("x",), rows=((1, 2),))
    with pytest.raises(ValueError, match="percent"):
        Table(name="t", title="t", columns=("x",), rows=(), percent=frozenset({"y"}))


def test_a_table_is_split_by_model():
    table = Table(name="t", title="T", columns=("model", "x"), rows=(("lab/a b", 1), ("c", 2), ("lab/a b", 3)))
    assert [(one.name, one.title, one.column("x")) for one in by_model(table)] == [
        ("t_lab-a-b", "T: lab/a b", [1, 3]), ("t_c", "T: c", [2]),
    ]  # fmt: skip
    assert by_model(TABLE) != [TABLE]
    (alone,) = by_model(Table(name="t", title="T", columns=("model",), rows=(("a",),)))
    assert alone.name == "t"


def test_looks_differ_in_grey_and_in_form():
    assert len({look(index) for index in range(28)}) == 28
    assert len({look(index)[1:] for index in range(7)}) == 7, "without any colour"
    greys = [_grey(color) for color in COLORS[:4]]
    assert min(abs(one - other) for i, one in enumerate(greys) for other in greys[:i]) > 25
    assert all(_grey(color) < 190 for color in COLORS), "dark enough on white"


def test_a_plot_is_written_with_its_table(tmp_path):
    before = dict(matplotlib.rcParams)
    with paper_look():
        figure, axes = panel_grid(4, sharey=True)
        for index, axis in enumerate(axes):
            axis.plot([0, 1], [0, 1], label=f"line {index % 2}", **look(index)._asdict())
        height = figure.get_size_inches()[1]
        legend_below(figure)
    assert dict(matplotlib.rcParams) == before
    assert figure.get_size_inches()[0] == pytest.approx(PAGE_WIDTH)
    assert figure.get_size_inches()[1] > height
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["line 0", "line 1"]
    plot = Plot(figure=figure, data=TABLE, caption="A line.")
    files = write_plot(plot, tmp_path / "figures")
    assert [path.name for path in files] == [f"some_table.{end}" for end in (*FORMATS, "csv", "md", "tex")]
    assert files[0].read_text().startswith("<?xml")
    assert files[1].read_bytes().startswith(b"%PDF")
    assert files[2].read_bytes().startswith(b"\x89PNG")
    again = write_plot(_simple(), tmp_path / "again"), write_plot(_simple(), tmp_path / "once more")
    assert [path.read_bytes() for path in again[0]] == [path.read_bytes() for path in again[1]], (
        "equal data, equal files"
    )
    assert "<text" in files[0].read_text(), "text stays text"


def test_intervals_are_drawn_around_values():
    rows = [
        {"rate": 0.5, "rate_low": 0.4, "rate_high": 0.7},
        {"rate": None, "rate_low": None, "rate_high": None},
        {"rate": 0.2, "rate_low": None, "rate_high": None},
    ]
    assert np.array_equal(floats(rows, "rate"), [0.5, np.nan, 0.2], equal_nan=True)
    with paper_look():
        _, (axis,) = new_figure()
        draw_intervals(axis, [1, 2, 3], rows, "rate", look(0), label="a")
    (drawn,) = axis.containers
    assert drawn.lines[0].get_ydata()[[0, 2]].tolist() == pytest.approx([50, 20])
    (bars,) = drawn.lines[2]
    assert bars.get_segments()[0].tolist() == [pytest.approx([1, 40]), pytest.approx([1, 70])]
    assert bars.get_segments()[2].tolist() == [pytest.approx([3, 20]), pytest.approx([3, 20])], "no interval, no bar"


def test_nothing_labelled_has_no_legend():
    with paper_look():
        figure, axes = new_figure()
        legend_below(figure)
    assert len(axes) == 1
    assert figure.legends == []
    assert figure.get_size_inches()[0] == pytest.approx(COLUMN_WIDTH)


def test_a_table_is_written_in_three_ways(tmp_path):
    assert [path.name for path in write_table(TABLE, tmp_path)] == [
        f"{TABLE.name}.{end}" for end in ("csv", "md", "tex")
    ]
    assert (tmp_path / f"{TABLE.name}.csv").read_text() == TABLE.to_csv()


def test_a_narrow_drawing_is_a_file_of_its_own(tmp_path):
    wide, narrow = _simple(), _simple()
    assert write_narrow(wide, tmp_path) is None
    path = write_narrow(dataclasses.replace(wide, narrow=narrow.figure), tmp_path)
    assert path == tmp_path / "some_table-narrow.svg"
    assert path.read_bytes() == write_plot(narrow, tmp_path / "wide")[0].read_bytes()


def _simple() -> Plot:
    with paper_look():
        figure, (axis,) = new_figure()
        axis.plot([0, 1], [0, 1], label="line")
        legend_below(figure)
    return Plot(figure=figure, data=TABLE, caption="A line.")


def _grey(color: str) -> float:
    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue
