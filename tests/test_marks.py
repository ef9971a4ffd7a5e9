"""Rates and differences of marked photos, by hand; and how many more photos would be needed."""

import json
import math

import numpy as np
import pytest
from described import described, row

from analysis import marks
from analysis.findings.marks import changes_of, marks_finding
from analysis.reading.load import NothingToShowError
from analysis.reading.marks import read_marked
from benchmarks import stats
from scr import DataFileError
from scr.describing.gallery.records import SETTINGS_FILE


def marked_folder(tmp_path, rows, marks):
    described(tmp_path, rows)
    gallery = json.loads((tmp_path / SETTINGS_FILE).read_text())["id"]
    (tmp_path / "marks.json").write_text(json.dumps({"gallery": gallery, "marks": marks}))
    return tmp_path, tmp_path / "marks.json"


ROWS = [
    row("a", "A dog, a cat and another dog.", "dog", "cat"),
    row("a", "A dog.", "dog", method="vcd"),
    row("b", "A car and a mug.", "car", "mug"),
    row("b", "A car and a bus.", "car", "bus", method="vcd"),
    row("c", "", error="torn"),
    row("c", "A cup.", "cup", method="vcd"),
    row("d", "A bed.", "bed"),
]
MARKS = {
    "a": {"dog": True, "cat": False},
    "b": {"car": True, "mug": False, "bus": True, "kite": True},
    "c": {"cup": False},
    "d": {},
}


def test_rates_are_of_marked_mentions_and_of_objects_that_are_there(tmp_path):
    marked = read_marked(*marked_folder(tmp_path, ROWS, MARKS))
    assert marked.methods == ["none", "vcd"]
    assert marked.photos(["none"]) == ["a", "b"]
    assert marked.photos(["vcd"]) == ["a", "b", "c"]
    none, vcd = (marked.table(method, ["a", "b"]) for method in ("none", "vcd"))
    assert stats.ratios(none) == {"made_up": 2 / 4, "coverage": 2 / 3}
    assert stats.ratios(vcd) == {"made_up": 0 / 3, "coverage": 3 / 3}
    assert marked.lost == 1


def test_a_word_that_is_said_twice_is_made_up_twice(tmp_path):
    twice = row("a", "A dog. A dog.", "dog")
    twice["doubts"].append({**twice["doubts"][0], "start": 9, "end": 12})
    marked = read_marked(*marked_folder(tmp_path, [twice], {"a": {"dog": False}}))
    assert marked.table("none", ["a"]).numerators.tolist() == [[2, 0]]
    assert marked.table("none", ["a"]).denominators.tolist() == [[2, 0]]


def many(photos, made_up):
    """Photos of which each text names two things; of `made_up` of them, one that is not there."""
    rows, marks = [], {}
    for number in range(photos):
        name = f"{number:03d}"
        marks[name] = {"dog": True, "cat": False}
        for method, wrong in made_up.items():
            text, words = ("A dog, a cat.", ("dog", "cat")) if number < wrong else ("A dog.", ("dog",))
            rows.append(row(name, text, *words, method=method))
    return rows, marks


def test_a_difference_that_is_seen_is_told_and_a_small_one_has_a_number_of_photos(tmp_path):
    marked = read_marked(*marked_folder(tmp_path, *many(60, {"none": 30, "vcd": 10, "scr": 29, "same": 30})))
    finding = marks_finding(marked)
    rates, differences = finding.tables
    assert [record["made_up"] for record in rates.records()] == [30 / 90, 10 / 70, 29 / 89, 30 / 90]
    vcd, scr, same = differences.records()
    assert vcd["made_up"] == pytest.approx(10 / 70 - 30 / 90)
    assert vcd["made_up_low"] < vcd["made_up"] < vcd["made_up_high"] < 0
    assert vcd["made_up_more_photos"] == 0
    assert scr["made_up_low"] < 0 <= scr["made_up_high"]
    assert scr["made_up_more_photos"] > 60
    assert same["made_up_more_photos"] is None
    said = "\n".join(finding.notes)
    assert "vcd names fewer things that are not there than none" in said
    assert "scr and none cannot be told apart in made-up (-0.7 points" in said
    assert "same and none do not differ in made-up" in said


def test_the_intervals_are_those_of_benchmarks(tmp_path):
    marked = read_marked(*marked_folder(tmp_path, *many(40, {"none": 20, "vcd": 12})))
    tables = [marked.table(method, marked.photos(["none", "vcd"])) for method in ("none", "vcd")]
    own, theirs = changes_of(*tables), stats.compare_tables(*tables).differences
    for name, change in own.items():
        assert change[:2] == tuple(theirs[name])


def test_the_number_of_images_finds_the_difference_four_times_in_five():
    generator = np.random.default_rng(0)
    size, spread, seen = 0.1, 0.8, 50
    needed = stats.images_to_tell(size, spread / math.sqrt(seen), seen)
    drawn = generator.normal(size, spread, size=(4000, needed))
    errors = drawn.std(axis=1, ddof=1) / math.sqrt(needed)
    assert np.mean(np.abs(drawn.mean(axis=1)) > 1.96 * errors) == pytest.approx(stats.POWER, abs=0.02)
    assert stats.images_to_tell(-size, spread / math.sqrt(seen), seen) == needed
    assert stats.images_to_tell(0.0, 1.0, 5) is None
    with pytest.raises(ValueError, match="out of range"):
        stats.images_to_tell(0.1, -1.0, 5)


def test_the_command(tmp_path, capsys):
    folder, path = marked_folder(tmp_path, ROWS, MARKS)
    assert marks.main([str(folder), str(path)]) == 0
    out = capsys.readouterr().out
    assert "| none | 2 | 4 | 50.0 (" in out
    assert "1 marks are about objects that no text mentions" in out
    path.write_text(json.dumps({**json.loads(path.read_text()), "marks": {"a": {"kite": True}}}))
    assert marks.main([str(folder), str(path)]) == 1
    assert "nothing to show: no mark is about" in capsys.readouterr().err
    with pytest.raises(NothingToShowError):
        marks_finding(read_marked(folder, path))


@pytest.mark.parametrize(
    ("content", "said"),
    [([], "no marks"), ({"gallery": "y", "marks": {}}, "marks of other"), ({"marks": {"a": {"b": 1}}}, "another form")],
)
def test_files_that_are_no_marks_of_the_folder(content, said, tmp_path):
    folder, path = marked_folder(tmp_path, ROWS, MARKS)
    if said == "another form":
        content = {**json.loads(path.read_text()), **content}
    path.write_text(json.dumps(content))
    with pytest.raises(DataFileError, match=said):
        read_marked(folder, path)
