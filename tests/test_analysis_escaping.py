"""Text from records is text in every kind of file, whatever a folder, a model or an answer is called."""

import csv
import re
from xml.etree import ElementTree

import pytest
from synthetic_results import questions, record, write

from analysis import report
from analysis.drawing.escaping import for_csv, for_latex, for_markdown, for_name, printable
from analysis.drawing.style import Plot, new_figure, paper_look, write_plot
from analysis.drawing.tables import Table, as_latex, as_markdown, by_model
from analysis.reading.load import load_results
from benchmarks.records import SampleRecord

HOSTILE = "a$b$c<script>alert(1)</script>}\\input{x} \udcca\u2028\x00=1"
FORMULAS = ("=1+1", "+cmd|' /C calc'!A0", "-1+2", "@SUM(A1)", "\t=1", "\r=1")


def table(*cells, name="t", columns=None) -> Table:
    return Table(
        name=name, title="A title", columns=columns or tuple(f"c{i}" for i in range(len(cells))), rows=(cells,)
    )


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_of_csv_is_a_formula(text):
    shown = for_csv(text)
    assert shown[0] not in "=+-@\t\r"
    assert next(csv.reader(table(text).to_csv().splitlines()[1:])) == [shown]


def test_numbers_of_csv_stay_numbers():
    for text in ("-1.5", "+2", "-.5e-3", "-12%", "1", "", "–"):
        assert for_csv(text) == text
    assert table(-1.5, -2, None, "-1.5", True).to_csv().splitlines()[1] == "-1.5,-2,,-1.5,True"
    assert for_csv("-1.5.2") == "'-1.5.2"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>x</script>", "&lt;script>x&lt;/script>"),
        ("<!-- x", "&lt;!-- x"),
        ("p < 0.05", "p < 0.05"),
        ("a|b", "a\\|b"),
        ("a\\|b", "a\\\\\\|b"),
        ("![x](http://y/z.png)", "![x]\\(http://y/z.png)"),
        ("two\nlines", "two lines"),
    ],
)
def test_markdown_holds_no_html_and_no_cell_ends_early(text, shown):
    assert for_markdown(text) == shown
    lines = as_markdown(table(text, 1.0)).splitlines()
    assert len(lines) == 5
    assert lines[4] == f"| {shown} | 1.000 |"


def test_latex_has_no_command_of_a_name():
    text = as_latex(table(HOSTILE, "[2] *x", name=f"summary_{HOSTILE}"))
    assert "\\input" not in text.replace("\\textbackslash{}input", "")
    assert re.findall(r"\\label\{(.*)\}", text) == ["tab:summary-a-b-c-script-alert-1-script-input-x-1"]
    assert "{[}2] {*}x" in text  # neither is an option of the row's end before it
    assert "\n" not in printable(HOSTILE)


def test_names_of_files():
    assert for_name("../../etc/passwd") == "etc-passwd"
    assert for_name("数据") == "unnamed"
    both = Table(name="t", title="T", columns=("model",), rows=(("a/b",), ("a b",)))
    assert [one.name for one in by_model(both)] == ["t_a-b", "t_a-b-2"]


def test_printable_leaves_what_can_be_seen():
    assert printable("naïve 数据 🙂 −1") == "naïve 数据 🙂 −1"
    assert printable({"a\x00": ["b\u2028", 1, None]}) == {"a\\x00": ["b\\u2028", 1, None]}
    assert for_latex("50 % \udcff") == "50 \\% \\textbackslash{}udcff"


def test_dollars_in_a_figure_are_dollars(tmp_path):
    with paper_look():
        figure, (axis,) = new_figure()
        axis.set_title("costs $1 and $x^$")
        axis.plot([1, 2], label="$\\frac{$")
        axis.legend()
    written = write_plot(Plot(figure=figure, data=table(1.0, name="f"), caption=""), tmp_path)
    assert "costs $1 and $x^$" in written[0].read_text()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report on runs whose every text is hostile, beside one that is no run."""
    root = tmp_path_factory.mktemp("results") / "res\udcca\udcfd"
    model = HOSTILE.replace("\x00", "")  # which no folder's name holds
    fields = {"model": model, "command": HOSTILE, "adapter": None, "device": HOSTILE, "packages": {HOSTILE: HOSTILE}}
    write(root, record(**fields), questions(3))
    write(root, record("scr", **fields, config={"a$": HOSTILE}), questions(3, noise=1))
    said = {"prompt": "Describe <b>|$x$ \udcff", "target": ["dog"], "output": "=A cup\u2028 </script><img src=x>"}
    captions = [SampleRecord(id=f"{i}\udcff", image=f"{i}\0.jpg", **said) for i in range(3)]
    write(root, record(task="chair}\\write18{ls}$x$", rule="chair", model=model), captions)
    bad = root / "chair" / "lab--llava" / "scr-0123456789"
    bad.mkdir(parents=True)
    fine = next(root.glob("pope_random/*/none-*/run.json")).read_text()
    (bad / "run.json").write_text(fine.replace('"metrics": {}', '"metrics": 5'))
    out = root.parent / "report\udcff"
    report.build_report(load_results(root), out)
    return out


def test_a_page_of_hostile_records(page):
    text = (page / "index.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "<img src=x>" not in text
    assert "&#39;metrics&#39; of a RunRecord is of another type: got 5" in text
    figures = list((page / "figures").iterdir())
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", path.name) for path in figures)
    assert {path.name for path in figures} >= {"summary_chair-write18-ls-x.tex", "forest.svg"}
    for path in figures:
        content = path.read_text(encoding="utf-8")
        if path.suffix == ".svg":
            ElementTree.fromstring(content)
        if path.suffix == ".tex":
            assert not re.search(r"(?<!textbackslash\{\})(input|write18)\{", content.replace("\\{", ""))


def test_an_older_page_is_there_until_the_new_one_is(page, tmp_path, monkeypatch):
    out = tmp_path / "report"
    write(tmp_path / "results", record(), questions(2))
    path = report.build_report(load_results(tmp_path / "results"), out, analyses={})
    before = path.read_text()
    monkeypatch.setattr("os.replace", lambda *names: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert report.main([str(tmp_path / "results"), "--out", str(out)]) == 2
    assert path.read_text() == before
