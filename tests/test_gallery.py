"""A folder of described photos: which photos, whose lines, what is left of a kill, and what the page is given."""

import csv
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from described import SETTINGS, TRACE, described, row
from PIL import Image

from scr import ConfigError, DataFileError
from scr.describing.gallery import records as records_of_a_folder
from scr.describing.gallery import working
from scr.describing.gallery.copies import LARGEST, copied
from scr.describing.gallery.differences import differing_words
from scr.describing.gallery.page import PAGE, page_data, write_page
from scr.describing.gallery.photos import Photo, find_photos
from scr.describing.gallery.records import ROWS_FILE, SETTINGS_FILE, Records, object_of
from scr.describing.gallery.table import COLUMNS, as_csv
from scr.describing.gallery.working import describe_missing

ROOT = Path(__file__).parent.parent
HOSTILE = "</script><img src=x onerror=alert(1)><!--title-->&amp;\u2028=1+1"


def touched(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_photos_are_found_below_folders_and_named_by_their_place(tmp_path):
    inside = tmp_path / "photos"
    touched(inside / "b.JPG", inside / "sub" / "a.heic", inside / ".hidden.png", inside / ".cache" / "c.png")
    touched(inside / "notes.txt", inside / "out" / "pictures" / "copy.png", tmp_path / "single.jpg")
    found = find_photos([inside, tmp_path / "single.jpg", tmp_path / "gone.jpg"], without=inside / "out")
    assert [photo.name for photo in found] == ["b.JPG", "sub/a.heic", "single.jpg", "gone.jpg"]
    assert found[1].path == inside / "sub" / "a.heic"
    assert find_photos([inside, inside], without=inside / "out") == found[:2]


@pytest.mark.parametrize(
    ("given", "said"), [(["phots"], "no such folder"), (["empty"], "no photos"), (["one", "two"], "have one name")]
)
def test_folders_that_cannot_be_meant(given, said, tmp_path):
    (tmp_path / "empty").mkdir()
    touched(tmp_path / "one" / "a.jpg", tmp_path / "two" / "a.jpg")
    with pytest.raises(ConfigError, match=said):
        find_photos([tmp_path / name for name in given], without=tmp_path / "out")


def asking(asked):
    """Describes a photo by its name, and notes what it was asked."""

    def describe(photos, method):
        asked.extend((photo.name, method) for photo in photos)
        return [row(photo.name, f"A {photo.path.stem}.", method=method) for photo in photos]

    return describe


def photos(*names):
    return [Photo(name, Path(name)) for name in names]


def run(records, names, methods, describe, batch_size=2):
    describe_missing(records, photos(*names), methods, describe, batch_size=batch_size, report=lambda line: None)


def test_each_photo_is_described_once_by_each_method(tmp_path):
    records, asked = described(tmp_path / "out", [row("b", "A b.", method="vcd")]), []
    run(records, "abc", ("none", "vcd"), asking(asked))
    # All methods of the first photos come before the next photos.
    assert asked == [("a", "none"), ("b", "none"), ("a", "vcd"), ("c", "none"), ("c", "vcd")]
    assert records.missing("abc", ("none", "vcd")) == {}
    run(records, "abc", ("none", "vcd"), asking(asked))
    assert len(asked) == 5
    assert not list((tmp_path / "out").glob(".claim*"))
    order = [(one["image"], one["method"]) for one in records.sort("cab", ("vcd", "none"))]
    assert order == [(image, method) for image in "cab" for method in ("vcd", "none")]
    lines = (tmp_path / "out" / ROWS_FILE).read_text().splitlines()
    assert [(one["image"], one["method"]) for one in map(json.loads, lines)] == order


def test_lines_that_were_read_are_not_read_again(tmp_path, monkeypatch):
    mine, other = described(tmp_path, [row(f"{number}.jpg", "A dog.") for number in range(3)]), Records(tmp_path)
    read, parsed = records_of_a_folder._read, []
    monkeypatch.setattr(records_of_a_folder, "_read", lambda line: parsed.append(line) or read(line))
    assert set(mine.missing(["1.jpg", "9.jpg"], ["none"])) == {"9.jpg"}
    other.add([row("8.jpg", "A dog."), row("9.jpg", "A cat.")])
    parsed.clear()
    assert mine.missing(["1.jpg", "9.jpg", "0.jpg"], ["none"]) == {}
    assert len(parsed) == 3, "the last that was known, and the two that are new"
    other.sort(["9.jpg", "8.jpg", "0.jpg"], ["none"])
    with (tmp_path / ROWS_FILE).open("a") as file:
        file.write(json.dumps(row("10.jpg", "A cow.")))
    assert set(mine.missing(["0.jpg", "2.jpg", "10.jpg", "11.jpg"], ["none"])) == {"11.jpg"}
    mine.add([row("10.jpg", "Another."), row("11.jpg", "A cow.")])
    assert [key[0] for key in mine.rows()] == ["9.jpg", "8.jpg", "0.jpg", "1.jpg", "2.jpg", "10.jpg", "11.jpg"]
    (tmp_path / ROWS_FILE).unlink()
    assert set(mine.missing(["0.jpg"], ["none"])) == {"0.jpg"}


def test_a_line_that_a_kill_tore_is_described_again(tmp_path):
    records = described(tmp_path, [row("a", "A dog."), row("b", "A cat.")])
    path = tmp_path / ROWS_FILE
    path.write_bytes(path.read_bytes()[:-20])
    assert set(records.rows()) == {("a", "none")}
    records.begin(SETTINGS)
    asked = []
    run(records, "ab", ("none",), asking(asked))
    assert asked == [("b", "none")]
    assert len(path.read_text().splitlines()) == 2
    path.write_text('{"image": "a"}\n' + path.read_text())
    with pytest.raises(DataFileError, match=r"line 1 of .* lacks fields.* expected a description"):
        records.rows()


def test_what_failed_is_tried_again_by_the_next_run_alone(tmp_path):
    records, asked = described(tmp_path, [row("a", "", error="cannot be read"), row("b", "A b.")]), []
    run(records, "ab", ("none",), asking(asked))
    assert asked == []
    records.begin(SETTINGS)
    run(records, "ab", ("none",), asking(asked))
    assert asked == [("a", "none")]
    assert records.rows()["a", "none"]["error"] is None


def test_an_interrupt_keeps_what_was_described_and_frees_the_photos(tmp_path):
    records, asked = described(tmp_path, []), []
    describe = asking(asked)

    def stopped(given, method):
        if given[0].name == "c":
            raise KeyboardInterrupt
        return describe(given, method)

    with pytest.raises(KeyboardInterrupt):
        run(records, "abcd", ("none",), stopped)
    assert set(records.rows()) == {("a", "none"), ("b", "none")}
    with Records(tmp_path).claimed("abcd", 9) as free:
        assert free == list("abcd")


PROCESS = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_gallery import SETTINGS, Records, asking, run
records, asked = Records(Path(sys.argv[2])), []
records.begin(SETTINGS)
describe = asking(asked)
def slow(photos, method):
    print(flush=True)
    time.sleep(float(sys.argv[3]))
    return describe(photos, method)
run(records, [f"{n:02d}" for n in range(24)], ("none", "vcd"), slow)
print(len(asked))
"""


def begun(folder, seconds):
    command = [sys.executable, "-c", PROCESS, str(ROOT / "tests"), str(folder), str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_two_processes_share_the_work_and_a_killed_one_loses_nothing(tmp_path):
    killed = begun(tmp_path, 600)
    assert killed.stdout.readline() == "\n", "it holds the first photos"
    others = [begun(tmp_path, 0.05) for _ in range(2)]
    for other in others:
        assert other.stdout.readline() == "\n"
    with killed:
        killed.kill()
    counts = [int(other.communicate(timeout=120)[0].split()[-1]) for other in others]
    lines = [json.loads(line) for line in (tmp_path / ROWS_FILE).read_text().splitlines()]
    assert Counter((one["image"], one["method"]) for one in lines) == {
        (f"{n:02d}", method): 1 for n in range(24) for method in ("none", "vcd")
    }
    assert sum(counts) == 48, "none was described twice"
    assert min(counts) > 0


def test_photos_of_another_process_are_waited_for(tmp_path, monkeypatch):
    records, asked = described(tmp_path, []), []
    with Records(tmp_path).claimed("a", 1):

        def ended(seconds):
            Records(tmp_path).add([row("a", "Theirs.")])

        monkeypatch.setattr(working.time, "sleep", ended)
        run(records, "a", ("none",), asking(asked))
    assert asked == []
    assert records.rows()["a", "none"]["text"] == "Theirs."
    records.add([row("a", "Ours.")])
    assert records.rows()["a", "none"]["text"] == "Theirs.", "a line that is there stays"


def test_a_folder_of_other_settings_is_refused(tmp_path):
    records = described(tmp_path / "out", [])
    known = json.loads((tmp_path / "out" / SETTINGS_FILE).read_text())
    more = {**SETTINGS, "methods": {"scr": {"scale": 1.2}}}
    records.check(more)
    assert json.loads((tmp_path / "out" / SETTINGS_FILE).read_text()) == known
    assert records.begin(more) == {**known, "methods": {"none": {}, "vcd": {}, "scr": {"scale": 1.2}}}
    for other in ({"prompt": "Why?"}, {"methods": {"scr": {"scale": 1.3}}}):
        with pytest.raises(ConfigError, match=r"described with other settings before: got \w+ .*; expected"):
            records.check({**SETTINGS, **other})
    touched(tmp_path / "file")
    with pytest.raises(ConfigError, match="a file; expected a folder"):
        Records(tmp_path / "file").check(SETTINGS)
    (tmp_path / "out" / SETTINGS_FILE).write_text("[]")
    with pytest.raises(DataFileError, match="settings of another form"):
        records.check(SETTINGS)


@pytest.mark.parametrize(
    ("first", "other", "spans"),
    [
        ("a dog runs", "a cat runs", ([(2, 5)], [(2, 5)])),
        ("a  dog", "a dog", ([], [])),
        ("a dog", "a big brown dog", ([], [(2, 11)])),
        ("", "a dog", ([], [(0, 5)])),
        ("🙂 a dog", "🙂 a cat", ([(4, 7)], [(4, 7)])),
    ],
)
def test_differing_words(first, other, spans):
    assert differing_words(first, other) == spans


def test_the_table_is_a_spreadsheets(tmp_path):
    rows = [row("=a.jpg", "-A dog\nand a cat.", "dog", score=0.25), row("b", "", error=HOSTILE)]
    lines = list(csv.reader(as_csv(rows).splitlines()))
    assert tuple(lines[0]) == COLUMNS
    assert lines[1] == ["'=a.jpg", "none", "'-A dog and a cat.", "dog 0.25", "0.25", "0", ""]
    assert lines[2][-1].endswith("\\u2028=1+1")
    uncalibrated = list(csv.reader(as_csv([row("a", "A dog.", "dog", recheck=-2.0)]).splitlines()))
    assert uncalibrated[1][3:5] == ["", ""]


def data_of(rows, copy=None):
    return page_data({**SETTINGS, "id": "x"}, rows, lambda name: copy)


def test_the_page_is_given_pieces_of_words_that_differ_and_are_doubted():
    said = row("a", "A 🙂 dog.", "dog", score=0.75, confidence=0.5, evidence=1.0, recheck=-1.0)
    other = row("a", "A 🙂 cat.", "cat", method="vcd", trace=TRACE)
    same = row("a", "A 🙂 dog.", "dog", method="scr")
    data = data_of([said, other, same, row("b", "", error="torn")], {"file": "pictures/x.png", "size": [4, 3]})
    assert data["methods"] == ["none", "vcd", "scr"]
    assert data["calibration"] == "lab"
    first, second = data["photos"]
    assert first["objects"] == [["dog", "dog", 1], ["cat", "cat", 1]]
    assert first["file"] == "pictures/x.png"
    none, vcd, scr = first["said"]
    assert none["pieces"] == scr["pieces"] == [["A 🙂 ", 0, -1], ["dog", 1, 0], [".", 1, -1]]
    assert none["doubts"] == [[0, 0.75, 0.5, 1.0, -1.0]]
    assert vcd["doubts"] == [[1, None, None, None, None]]
    assert vcd["trace"]["grids"] == [[3, 4]]
    assert vcd["trace"]["whole"] == 0
    assert vcd["trace"]["most"] == pytest.approx(0.04 / 0.21)
    assert second["said"] == [{"error": "torn"}, None, None]


def test_objects_are_those_of_the_list_before_other_nouns():
    assert [object_of(one) for one in row("a", "A Mug, a Dog.", "Mug", category=None)["doubts"]] == ["mug"]
    nouns, listed = (
        row("a", "A Mug.", "Mug", category=None),
        row("a", "A puppy.", "puppy", category="dog", method="vcd"),
    )
    assert data_of([nouns, listed])["photos"][0]["objects"] == [["dog", "dog", 1], ["mug", "mug", 0]]


def test_hostile_texts_and_names_are_data_of_the_page(tmp_path):
    names = (HOSTILE.replace("/", "-"), "\udcff.jpg", "__proto__")
    rows = [row(name, HOSTILE, "title", method=HOSTILE) for name in names]
    records = described(tmp_path, rows, model=HOSTILE, prompt=HOSTILE)
    settings = json.loads((tmp_path / SETTINGS_FILE).read_text())
    read = list(records.rows().values())
    assert read == rows
    page = write_page(tmp_path, settings, read, lambda name: None).read_text()
    assert page == (tmp_path / PAGE).read_text()
    assert "<img src=x" not in page
    assert page.count("<script") == 2, "its data and its own script"
    assert "<!--" not in page.replace("&lt;!--", "")
    data = json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.S)[1])
    assert [photo["key"] for photo in data["photos"]] == list(names)
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page), "nothing from a network"
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)


def test_copies_are_upright_small_and_made_once(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (2 * LARGEST, LARGEST), "teal").save(tmp_path / "a.jpg", exif=exif)
    made = copied(Photo("a.jpg", tmp_path / "a.jpg"), tmp_path)
    assert made["size"] == [LARGEST // 2, LARGEST]
    copy = tmp_path / made["file"]
    before = copy.stat().st_mtime_ns
    assert copied(Photo("a.jpg", tmp_path / "a.jpg"), tmp_path) == made
    assert copy.stat().st_mtime_ns == before
    (tmp_path / "a.jpg").unlink()
    assert copied(Photo("a.jpg", tmp_path / "a.jpg"), tmp_path) == made, "the photo may be gone later"
    touched(tmp_path / "torn.jpg")
    assert copied(Photo("torn.jpg", tmp_path / "torn.jpg"), tmp_path) is None
    assert copied(Photo("gone.jpg", tmp_path / "gone.jpg"), tmp_path) is None
