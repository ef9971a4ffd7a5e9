"""What is drawn over a picture, which words are marked, and where pictures are found."""

import numpy as np
import pytest
from PIL import Image
from synthetic_results import answer

import analysis
from analysis.drawing.overlays import OPACITY, TraceError, overlay, read_layers
from analysis.drawing.pictures import find_pictures, lab_cache
from analysis.reading.marking import MarkedText, mark_hallucinations, object_names
from benchmarks.lab.world.data import cache_folder, data_folder
from benchmarks.records import SampleRecord
from benchmarks.tasks.chair.task import Chair
from benchmarks.tasks.coco import CocoData

TRACE = {
    "grids": [[3, 4]],
    "attention": [0.4, 0.2, 0, 0, 0, 0.1, 0, 0, 0, 0, 0, 0],
    "sources": [5],
    "neighbors": [6, 9],
    "owners": [0, 0],
}


def caption(output, target, name="1"):
    return SampleRecord(id=name, image="1.png", prompt="Describe.", target=target, output=output)


def pixel(picture, row, column, at=(0.5, 0.5), cell=40):
    return picture.getpixel((int((column + at[0]) * cell), int((row + at[1]) * cell)))


def test_the_less_attention_the_darker():
    assert analysis.overlay is overlay
    white = Image.new("RGB", (80, 60), "white")
    drawn = overlay(white, {**TRACE, "sources": [], "neighbors": [], "owners": []}, size=160)
    assert drawn.size == (160, 120)
    dark = round(255 * (1 - OPACITY))
    assert [pixel(drawn, 0, column)[0] for column in range(3)] == [255, pytest.approx((255 + dark) / 2, abs=1), dark]
    assert white.getpixel((0, 0)) == (255, 255, 255), "the picture that was given stays as it is"


def test_sources_and_neighbors_are_where_the_trace_says(tmp_path):
    path = tmp_path / "white.png"
    Image.new("L", (400, 300), 255).save(path)
    drawn = overlay(path, {**TRACE, "attention": None}, size=160)
    blue = (0x56, 0xB4, 0xE9)
    assert [pixel(drawn, 1, 2), pixel(drawn, 2, 1)] == [blue, blue]
    assert pixel(drawn, 1, 1, (0.5, 0.1)) < (40, 40, 40), "the square of the source"
    assert pixel(drawn, 0, 3) == (255, 255, 255)
    assert pixel(overlay(None, TRACE, size=160), 0, 0) == (0xDD, 0xDD, 0xDD), "without a picture: a plain ground"


def test_a_trace_of_a_patch_is_drawn_too():
    class Traced:
        def to_dict(self):
            return TRACE

    picture = Image.new("RGB", (8, 6), "green")
    assert np.array_equal(overlay(picture, Traced()), overlay(picture, TRACE))


def test_of_several_grids_one_is_named():
    tiles = {"grids": [[1, 2], [2, 2]], "attention": [9, 9, 1, 0, 0, 0]}
    with pytest.raises(TraceError, match=r"got None of \[\(1, 2\), \(2, 2\)\]; expected the index"):
        overlay(None, tiles)
    drawn = overlay(None, tiles, grid=-1, size=80)
    assert drawn.size == (80, 80)
    assert pixel(drawn, 0, 0)[0] > pixel(drawn, 1, 1)[0], "shares are of the strongest patch of all grids"
    with pytest.raises(TraceError, match="got 2 of"):
        overlay(None, tiles, grid=2)
    with pytest.raises(TraceError, match=r"got None of \[\]"):
        overlay(None, {"entropy": 1.0})


@pytest.mark.parametrize(
    "change",
    [
        {"attention": [1, 2]},
        {"attention": [float("nan")] * 12},
        {"attention": [-1] * 12},
        {"sources": [12]},
        {"owners": [0]},
        {"owners": [0, 1]},
        {"grids": [[0, 4]]},
        {"grids": [[1, 2], [2, 5]], "whole": 2},
        {"grids": [[1, 2], [2, 5]], "whole": "1"},
        {"grids": [[3]]},
        {"attention": ["a"] * 12},
    ],
    ids=str,
)
def test_a_trace_that_does_not_fit_is_refused(change):
    with pytest.raises(TraceError, match=r": got .*; expected .*\. Run it again"):
        read_layers({**TRACE, **change})


def test_what_can_be_drawn():
    assert read_layers(None) is None
    assert read_layers({"entropy": 1.0}) is None
    layers = read_layers({"grids": [[1, 2]], "attention": [0, 0]})
    assert (layers.patches, list(layers.relative_attention()), layers.sources) == (2, [0, 0], ())
    assert read_layers({"grids": [[1, 2]]}).relative_attention() is None
    assert read_layers({"grids": [[1, 2]]}).whole == 0
    assert read_layers({"grids": [[1, 2], [1, 1]]}).whole is None
    assert read_layers({"grids": [[1, 2], [1, 1]], "whole": 1}).whole == 1


def test_words_of_absent_objects_are_marked():
    def marked(text, target, names=None):
        sample = caption(text, target)
        sample.found = Chair().grade(target, text).found
        pieces = mark_hallucinations(sample, names)
        assert "".join(piece.text for piece in pieces) == text
        return [piece.text for piece in pieces if piece.hallucinated]

    text = "Two Puppies, a hot  dog and a man\nat a stop  sign. A puppy."
    assert marked(text, ["hot dog"]) == ["Puppies", "man", "stop  sign", "puppy"]
    assert marked(text, ["dog", "person"]) == ["hot  dog", "stop  sign"]
    assert marked(text, [], {"dog", "person"}) == ["Puppies", "man", "puppy"]
    assert marked("", ["dog"]) == []


def test_without_a_grade_nothing_is_marked_and_no_object_is_known():
    assert mark_hallucinations(caption("A dog.", ["cat"])) == [MarkedText("A dog.", False)]
    assert object_names([caption("A dog.", ["cat"])]) == frozenset()
    graded = caption("A puppy.", ["cat"])
    graded.found = Chair().grade(["cat"], "A puppy.").found
    assert object_names([graded, caption("A bus.", ["cup"])]) == {"dog", "cat"}


def test_a_yes_about_an_absent_object_is_marked():
    wrong = answer("1", "1.png", "no", 2.0)
    wrong.output = "Oh yes, it is."
    assert mark_hallucinations(wrong) == [
        MarkedText("Oh ", False),
        MarkedText("yes", True),
        MarkedText(", it is.", False),
    ]
    wrong.output = "Sure"
    assert mark_hallucinations(wrong) == [MarkedText("Sure", True)]
    for sample in (answer("1", "1.png", "yes", 2.0), answer("1", "1.png", "no", None)):
        assert not any(piece.hallucinated for piece in mark_hallucinations(sample))


def test_the_labs_pictures_are_found_by_the_digest_of_their_annotations(tmp_path, monkeypatch):
    monkeypatch.setenv("SCR_CACHE", str(tmp_path))
    assert cache_folder().parent == lab_cache()
    folders = {split: data_folder(split, 1) for split in ("test", "val")}
    digests = {split: CocoData.open(folder).sha256 for split, folder in folders.items()}
    (name,) = (path.name for path in (folders["test"] / "test").iterdir())
    assert (folders["val"] / "val" / name).exists(), "both splits use the name"
    found = find_pictures([(digests["test"], name), (digests["val"], name)], [])
    assert found.files == {(digests[split], name): folders[split] / split / name for split in folders}
    assert found.problems == ()
    monkeypatch.setenv("SCR_CACHE", str(tmp_path / "elsewhere"))
    # The data set, its pictures, or a folder above it may be named.
    for folder in (folders["test"], folders["test"] / "test", tmp_path):
        assert find_pictures([(digests["test"], name)], [folder]).files, folder
    assert find_pictures([(digests["test"], "../../val-1/val/" + name)], [folders["test"]]).files == {}


def test_the_caches_of_others_are_looked_for_where_the_lab_puts_them(tmp_path, monkeypatch):
    monkeypatch.delenv("SCR_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder().parent == lab_cache() == tmp_path / "scr-vlm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder().parent == lab_cache()


def test_a_name_must_be_that_of_one_picture(tmp_path, monkeypatch):
    monkeypatch.setenv("SCR_CACHE", str(tmp_path / "none"))
    for folder, color in (("a", "red"), ("b", "red"), ("c", "blue")):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (4, 4), color).save(tmp_path / folder / "1.png")
    assert find_pictures([("d", "1.png")], [tmp_path / "c"]).files == {("d", "1.png"): tmp_path / "c" / "1.png"}
    assert find_pictures([("d", "1.png")], [tmp_path / "a", tmp_path / "b"]).files, "the same picture twice"
    found = find_pictures([("d", "1.png"), ("d", "2.png")], [tmp_path])
    assert found.files == {}
    assert "different pictures have one name: got several files called 1.png" in found.problems[0]
    assert "got 1 of 2 names without a file below --images" in found.problems[1]
    (said,) = find_pictures([("d", "1.png")], []).problems
    assert "--images was not given" in said
