"""The report: its page, its data and its files, read with the standard library; `test_analysis_page.py` opens it."""

import base64
import errno
import json
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from coco_files import write_coco
from PIL import Image
from synthetic_results import answer, questions, record, write

from analysis.drawing.tables import Table, is_numeric, shown_cells
from analysis.findings.forest import forest_findings
from analysis.findings.summary import summary_findings
from analysis.page.browser import INLINE, write_browser
from analysis.page.samples import OUTCOMES, choose_samples, outcome_table, shown_samples
from analysis.reading.load import NothingToShowError, load_results
from analysis.reading.provenance import provenance, without_folders
from analysis.report import PAGE, build_report, main
from benchmarks.records import SampleRecord
from benchmarks.tasks.chair.task import Chair
from scr.files import read_text
from scr.pages.embedding import script_json, shared

ROOT = Path(__file__).parent.parent
HOSTILE = "</script><script>alert('<!-- & \u2028')</script>"
TRACE = {
    "grids": [[2, 2]],
    "attention": [0.1, 0.2, 0.3, 0.4],
    "entropy": 1.28,
    "sources": [3],
    "neighbors": [2],
    "owners": [0],
}
NO_LABEL = ("hidden", "submit", "reset", "button")


class Page(HTMLParser):
    """Tags with their attributes, what labels and buttons say, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.scripts, self.named, self.nameless = [], {}, []
        self.feed(text)
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append((tag, given))
        if tag in ("select", "input", "textarea") and not (
            "aria-label" in given or any(one == "label" for one, _ in self.open)
        ):
            self.nameless.append(given)
        if tag not in ("meta", "link", "img", "input", "br", "source"):
            self.open.append((tag, []))

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        while True:
            name, said = self.open.pop()
            if tag in ("button", "label", "legend", "summary", "h1", "h2", "h3") and not "".join(said).strip():
                self.nameless.append(tag)
            if name == tag:
                return
            assert name in ("option", "li", "p"), f"{name} is not closed before {tag}"

    def handle_data(self, data):
        (self.scripts if self.open and self.open[-1][0] == "script" else self.texts).append(data)
        for _, said in self.open:
            said.append(data)

    def attributes(self, tag, name):
        return [given[name] for one, given in self.tags if one == tag and name in given]

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def nothing(runs):
    raise NothingToShowError(f"nothing <b>here</b>: got {runs[0].folder}; expected more. Run some.")


def caption(name, output, target, trace=None):
    return SampleRecord(
        id=name, image=f"{name}.png", prompt=HOSTILE, target=target, output=output, trace=trace,
        found=Chair().grade(target, output).found,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Yes/no questions before and after, captions, and a model without a baseline."""
    root = tmp_path_factory.mktemp("made") / "results"
    command = f"python -m benchmarks.run --output-dir {root}"
    before = questions(images=6)
    write(root, record(command=command), before)
    after = [answer(one.id, one.image, one.target, -one.margin if place < 2 else one.margin, one.trace) for place, one
             in enumerate(before)]  # fmt: skip
    write(root, record("scr", config={"scale": 1.1, "base": {"source": "random"}}, config_given={"scale": 1.1}), after)
    targets = [["dog", "cup"], ["cat"], ["dog"]]
    said = [("A dog and a cat.", "A dog."), (f"A dog {HOSTILE}", f"A dog {HOSTILE}"), ("A dog.", "A cat.")]
    for method, place in (("none", 0), ("scr", 1)):
        samples = [
            caption(str(100 + number), texts[place], target, TRACE if place else None)
            for number, (texts, target) in enumerate(zip(said, targets, strict=True))
        ]
        write(root, record(method, task="chair", metrics={"chair_i": 0.5}, intervals={"chair_i": [0.4, 0.6]}), samples)
    write(root, record("vcd", model="other/<model>"), before[:3])
    return root


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Pictures of some of them, one larger than the page wants."""
    made = tmp_path_factory.mktemp("pictures")
    for name in ("0.jpg", "100.png", "101.png"):
        Image.new("RGB", (40, 20), "red").save(made / name)
    Image.new("RGB", (1600, 800), "blue").save(made / "1.jpg")
    (made / "2.jpg").write_text("no picture")
    return made


@pytest.fixture(scope="module")
def out(folder, images, tmp_path_factory):
    """The report of them."""
    made = tmp_path_factory.mktemp("report")
    analyses = {"forest": forest_findings, "summary": summary_findings, "nothing": nothing}
    assert build_report(load_results(folder), made, images=[images], analyses=analyses) == made / PAGE
    return made


@pytest.fixture(scope="module")
def page(out):
    """Its page."""
    return Page((out / PAGE).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def data(page):
    """What its script reads."""
    (text,) = [text for text in page.scripts if text.lstrip().startswith('{"chunkSize"')]
    return json.loads(text)


def test_everything_has_a_name(page):
    assert page.nameless == []
    assert all("alt" in given for tag, given in page.tags if tag == "img")
    figures = [given for tag, given in page.tags if tag == "img" and given.get("src")]
    assert figures
    assert all(given["alt"] for given in figures)
    assert page.attributes("html", "lang") == ["en"]
    assert all(given.get("scope") for tag, given in page.tags if tag == "th")
    assert all(given.get("aria-label") for _, given in page.tags if given.get("role") in ("region", "img") and
               given.get("id") != "stage")  # fmt: skip
    names = [given["id"] for _, given in page.tags if "id" in given]
    assert len(names) == len(set(names))
    assert set(page.attributes("section", "aria-labelledby")) <= set(names)


def test_nothing_comes_from_elsewhere_and_every_file_is_there(page, out, data):
    links = [given[key] for _, given in page.tags for key in ("src", "href") if key in given]
    names = {given["id"] for _, given in page.tags if "id" in given}
    for link in links:
        if link.startswith("#"):
            assert link[1:] in names, link
        elif link != "data:,":
            assert not re.match(r"[a-z]+:|/", link), link
            assert (out / link).is_file(), link
    pictures = [out / "samples" / "images" / one["file"] for one in data["images"] if "file" in one]
    assert len(pictures) == 4
    assert all(path.is_file() for path in pictures)
    text = (out / PAGE).read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\"'\s]*", text)) == {"http://www.w3.org/2000/svg"}
    assert "url(" not in text


def test_what_records_hold_is_text(page, data, out):
    text = (out / PAGE).read_text(encoding="utf-8")
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 2
    assert "alert(" not in re.sub(r"\\u003c.*?\\u003e", "", "".join(page.texts))
    assert "nothing <b>here</b>" in page.text
    assert ("b", {}) not in page.tags
    assert "other/<model>" in page.text
    assert "<script>alert" not in text
    assert HOSTILE in {one["prompt"] for one in data["first"]}
    assert script_json({"a": HOSTILE}).isascii()
    assert json.loads(script_json({"a": HOSTILE})) == {"a": HOSTILE}
    assert not set("<>&") & set(script_json({"a": HOSTILE}))


def test_the_page_names_no_folder(out, folder, page):
    text = (out / PAGE).read_text(encoding="utf-8")
    assert str(folder) not in text
    assert str(folder.parent) not in text
    assert "--output-dir …/results" in page.text
    assert f"got {folder.name}/" in page.text, "a run below the results can still be told"


def test_tables_figures_settings_and_what_is_left_out(page, out):
    assert "50.0 40.0 to 60.0" in page.text, "an interval stands under its number"
    assert "mentions that are made up, %" in page.text
    assert "chair i" not in page.text
    assert {"chair_i"} <= set(page.attributes("th", "title")), "the name in the files"
    assert "Left out: nothing" in page.text
    assert "figures/forest.svg" in page.attributes("img", "src")
    assert {"figures/forest.csv", "figures/summary_chair.csv", "figures/summary_chair.tex"} <= set(
        page.attributes("a", "href")
    )
    assert "1.1 (given)" in page.text
    assert "base.source random" in page.text
    assert (out / "figures" / "forest.svg").read_text().count("<svg") == 1


def test_the_head_answers_and_the_list_of_sections_follows_the_page(page, out):
    heads = [given["id"] for tag, given in page.tags if tag == "section"]
    assert heads == ["answers", "forest", "summary", "samples", "nothing", "settings"]
    links = [given["href"] for tag, given in page.tags if tag == "a" and given.get("href", "").startswith("#")]
    assert links == [f"#{name}" for name in ("content", *heads)]
    head = page.text[page.text.rindex("did it help?") : page.text.index("Method minus baseline;")]
    assert "scr lab/llava" in head
    assert re.search(r"on pope_random hallucination rate \S+ points \(\S+ to \S+\) and recall", head)
    assert "on chair CHAIR-i" in head
    assert "Not compared, without a baseline or without grades: vcd on other/<model>." in head
    assert "figures/forest-narrow.svg" in page.attributes("source", "srcset")
    assert (out / "figures" / "forest-narrow.svg").read_text().count("<svg") == 1


def test_no_cell_is_without_the_words_of_its_column(page):
    cells = [given for tag, given in page.tags if tag == "td"]
    assert cells
    assert all(given.get("data-words") for given in cells)


def test_the_browser_has_each_sample_with_its_outcome(data):
    labels, index = data["labels"], data["index"]
    rows = [
        {kind: labels[kind][index[kind][place]] for kind in labels} | {"id": data["first"][place]["id"]}
        for place in range(len(data["first"]))
    ]
    assert [row["outcome"] for row in rows] == sorted((row["outcome"] for row in rows), key=list(OUTCOMES).index), (
        "the most interesting first"
    )
    captions = {row["id"]: row["outcome"] for row in rows if row["task"] == "chair"}
    assert captions == {"100": "fixed", "101": "unchanged", "102": "broken"}
    asked = [row["outcome"] for row in rows if row["task"] == "pope_random" and row["model"] == "lab/llava"]
    assert len(asked) == 36
    assert sum(outcome in ("fixed", "broken") for outcome in asked) == 2
    assert [row["outcome"] for row in rows if row["model"] == "other/<model>"] == ["alone"] * 3
    assert {len(index[kind]) for kind in index} == {len(rows)}


def test_a_sample_holds_what_is_drawn(data):
    (fixed,) = [one for one in data["first"] if one["id"] == "100"]
    assert fixed["before"]["pieces"] == [["A dog and a ", 0], ["cat", 1], [".", 0]]
    assert fixed["after"]["pieces"] == [["A dog.", 0]]
    assert fixed["target"] == "dog, cup"
    trace = fixed["trace"]
    assert (trace["grids"], trace["whole"], trace["sources"], trace["owners"]) == ([[2, 2]], 0, [3], [0])
    assert list(base64.b64decode(trace["attention"])) == [64, 128, 191, 255]
    assert trace["most"] == pytest.approx(0.4)
    place = data["first"].index(fixed)
    assert data["index"]["entropy"][place] == 1.28, "of the method's run where the baseline has none"
    picture = data["images"][data["index"]["image"][place]]
    assert (picture["name"], picture["size"]) == ("100.png", [40, 20])
    assert picture["thumbnail"].startswith("data:image/jpeg;base64,")


def test_pictures_are_made_smaller_and_bad_ones_said(data, out, page):
    (large,) = [one for one in data["images"] if one["name"] == "1.jpg"]
    assert large["size"] == [1600, 800]
    with Image.open(out / "samples" / "images" / large["file"]) as picture:
        assert picture.size == (768, 384)
    assert "a picture cannot be read: got 2.jpg" in page.text
    assert "pictures are missing: got 4 of 9 names" in page.text


def test_two_thousand_samples_are_quick_and_mostly_beside_the_page(tmp_path, monkeypatch):
    monkeypatch.setenv("SCR_CACHE", str(tmp_path / "none"))
    (tmp_path / "images").mkdir()
    for number in range(170):
        Image.new("RGB", (64, 48), (number, 90, 90)).save(tmp_path / "images" / f"{number}.jpg")
    before = questions(images=170)
    for one in before:
        one.trace |= {"attention": [0.01] * 144, "sources": list(range(16)), "neighbors": [], "owners": []}
    write(tmp_path / "results", record(), before)
    for seed in (1, 2):
        method = record("scr", config={"scale": seed})
        write(tmp_path / "results", method, questions(images=170, noise=seed, traced=False))
    begun = time.process_time()
    results = load_results(tmp_path / "results")
    build_report(results, tmp_path / "out", images=[tmp_path / "images"], analyses={})
    assert time.process_time() - begun < 10
    page = Page((tmp_path / "out" / PAGE).read_text())
    (text,) = [text for text in page.scripts if text.startswith('{"chunkSize"')]
    found = json.loads(text)
    assert len(found["first"]) == INLINE
    assert len(found["index"]["row"]) == 2000
    assert [found["index"]["row"].count(row) for row in (0, 1)] == [1000, 1000], "each method has its share"
    assert (tmp_path / "out" / PAGE).stat().st_size < 2e6
    chunks = sorted((tmp_path / "out" / "samples").glob("chunk-*.js"))
    assert len(chunks) == 9
    called = re.fullmatch(r"reportChunk\((\d+), (.*)\);\n", chunks[-1].read_text())
    assert (int(called[1]), len(json.loads(called[2]))) == (9, 200)
    first = (tmp_path / "out" / PAGE).read_bytes()
    build_report(results, tmp_path / "out", images=[tmp_path / "images"], analyses={})
    assert (tmp_path / "out" / PAGE).read_bytes() == first, "equal records give an equal page"
    (tmp_path / "out" / "samples" / "notes.txt").write_text("mine")
    build_report(results, tmp_path / "out", analyses={}, limit=0)
    left = [path.name for path in (tmp_path / "out" / "samples").rglob("*") if path.is_file()]
    assert left == ["notes.txt"], "files of the page before are gone, others stay"


def test_which_samples_are_chosen(folder):
    groups = shown_samples(load_results(folder).runs)
    assert sorted(map(len, groups)) == [3, 3, 36]
    few = choose_samples(groups, 9)
    assert len(few) == 9
    assert [one.outcome for one in few].count("alone") == 3
    assert len([one for one in few if one.task == "pope_random" and one.outcome in ("fixed", "broken")]) == 2
    assert choose_samples(groups, 0) == []
    assert len(choose_samples(groups, 1000)) == 42
    table = outcome_table(groups)
    assert [row["samples"] for row in table.records()] == [3, 36], "what has no partner is not counted"


def test_traces_that_cannot_be_drawn_are_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("SCR_CACHE", str(tmp_path / "none"))
    wrong = [answer(str(place), "", "no", 1.0, {**TRACE, "sources": [9]}) for place in range(2)]
    write(tmp_path / "results", record(), wrong)
    samples = choose_samples(shown_samples(load_results(tmp_path / "results").runs), 10)
    found = write_browser(samples, tmp_path / "out")
    assert found.files == ()
    assert len(found.problems) == 1
    assert found.problems[0].startswith("2 traces are not drawn, of which the first: a trace does not fit its grids")
    assert found.data["index"]["image"] == [None, None]


def test_grids_that_are_tiles_have_no_place(tmp_path):
    tiles = {"grids": [[1, 1], [1, 2]], "attention": [1, 1, 1]}
    for whole in (1, None):
        write(tmp_path / str(whole), record(), [answer("1", "", "no", 1.0, {**tiles, "whole": whole})])
        samples = choose_samples(shown_samples(load_results(tmp_path / str(whole)).runs), 1)
        (entry,) = write_browser(samples, tmp_path / "out").data["first"]
        assert entry["trace"]["whole"] == whole


def test_provenance_and_paths(folder):
    runs = load_results(folder).runs
    found = provenance(runs)
    assert [one.title for one in found] == [f"{run.record.model}, {run.record.task}, {run.row}" for run in runs]
    assert "/" not in found[0].fields["command"].replace("…/results", "")
    assert without_folders("--data-dir /a/b/coco --x ~/d/e and/or 1/2 lab/llava") == (
        "--data-dir …/coco --x …/e and/or 1/2 lab/llava"
    )
    assert without_folders("at /a/results/chair/x.", Path("/a/results")) == "at results/chair/x."


def test_cells_as_shown():
    table = Table(name="t", title="T", columns=("n", "x", "x_low", "x_high"), rows=(("a", 0.5, 0.4, None),))
    assert shown_cells(table) == (["n", "x"], [["a", "0.500"]])
    assert (is_numeric(table, "x"), is_numeric(table, "n")) == (True, False)


def test_the_command(folder, tmp_path, capsys):
    write(tmp_path / "results", record(), questions(images=2, traced=False))
    write(tmp_path / "results", record("scr", status="failed"), questions(images=2, traced=False))
    assert main([str(tmp_path / "results"), "--out", str(tmp_path / "out"), "--samples", "3"]) == 0
    shown = capsys.readouterr()
    assert f"written: {tmp_path / 'out' / PAGE}" in shown.out
    assert "note: a run is not finished" in shown.err
    page = Page((tmp_path / "out" / PAGE).read_text())
    assert "3 of 12 comparisons are here" in page.text
    assert "What is wrong with this folder" in page.text
    assert "pictures are missing" in page.text
    (tmp_path / "file").write_text("")
    for arguments, word in (
        ([str(tmp_path / "missing")], "no folder of results"),
        ([str(folder), "--images", str(tmp_path / "file")], "no folder of images: got"),
        ([str(folder), "--samples", "-1"], "argument --samples: got '-1'; expected a whole number, 0 to"),
        ([str(folder), "--out", str(tmp_path / "file")], "cannot write"),
    ):
        assert main(arguments) == 2
        assert word in capsys.readouterr().err
    assert main(["--help"]) == 0


def test_a_run_that_does_not_validate_is_a_row_with_its_reason(tmp_path):
    write(tmp_path / "results", record(), questions(images=2, traced=False))
    wrong = write(tmp_path / "results", record("scr"), questions(images=2, traced=False))
    content = json.loads((wrong / "run.json").read_text())
    (wrong / "run.json").write_text(json.dumps({**content, "metrics": 5}))
    assert main([str(tmp_path / "results"), "--out", str(tmp_path / "out"), "--samples", "1"]) == 0
    page = (tmp_path / "out" / PAGE).read_text()
    place = wrong.relative_to(tmp_path)
    assert re.search(rf'<tr><th scope="row">{place}</th><td>a run cannot be read and is left out: .*metrics', page)


@pytest.mark.parametrize("lost", ["report.html", "report.css"])
def test_a_part_of_the_page_that_cannot_be_read_is_not_called_unwritable(folder, tmp_path, monkeypatch, capsys, lost):
    def refused(path):
        return read_text(path.with_name("absent")) if path.name == lost else read_text(path)

    monkeypatch.setattr("analysis.report.read_text", refused)
    assert main([str(folder), "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: cannot read \S+absent: got No such file or directory; expected a file\. .*\n", said)


def test_a_data_set_that_cannot_be_read_is_not_called_unwritable(folder, tmp_path, monkeypatch, capsys):
    write_coco(tmp_path / "coco", "val", {1: ["dog"]})
    monkeypatch.setattr("scr.files.open", _denied, raising=False)
    assert main([str(folder), "--out", str(tmp_path / "out"), "--images", str(tmp_path / "coco")]) == 2
    assert re.match(r"error: cannot read \S+instances_val\.json: got Permission denied", capsys.readouterr().err)


def _denied(path, *arguments, **options):
    if str(path).endswith("instances_val.json"):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    return open(path, *arguments, **options)


def test_the_page_needs_no_torch(folder, tmp_path):
    code = "import sys; from analysis.report import main; "
    code += "code = main(sys.argv[1:]); sys.exit('torch is there' if 'torch' in sys.modules else code)"
    subprocess.run([sys.executable, "-c", code, str(folder), "--out", str(tmp_path)], cwd=ROOT, check=True)


def test_colours_have_enough_contrast():
    css = shared("look.css")
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in css.split("@media", 2)[:2])
    assert set(light) == set(dark)
    for colors in (light, dark):
        for ground in ("background", "card"):
            for text in ("text", "muted", "link", "good", "bad"):
                assert contrast(colors[text], colors[ground]) >= 4.5, (text, ground)
            assert contrast(colors["control"], colors[ground]) >= 3, "borders of controls"
        assert contrast(colors["mark-text"], colors["mark-background"]) >= 4.5


def contrast(one, other):
    """WCAG 2.2's contrast ratio."""
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def luminance(color):
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
