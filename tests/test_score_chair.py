"""`score chair`: all forms of caption files, ground truth from annotation files, and files that are none of these."""

from __future__ import annotations

import json

import nltk
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import score
from benchmarks.records import hallucinated_mentions
from benchmarks.tasks.chair import task as chair
from benchmarks.tasks.chair import wordnet as chair_wordnet
from benchmarks.tasks.chair.scorer import RULES, read_captions
from benchmarks.tasks.chair.task import Chair
from scr import DataFileError

CATEGORIES = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cup"}, {"id": 3, "name": "bus"}]
ROWS = [
    {"image_id": 1, "caption": "A dog, a dog and a cat. A cat."},
    {"image_id": 2, "caption": "A cup on a table."},
    {"image_id": 2, "caption": "The sky."},
]


def write(path, value):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))
    return path


@pytest.fixture
def annotations(tmp_path):
    """Image 1 (a dog; references with a woman) is in train, image 2 (a cup, a bus; a man on a couch) in val."""
    folder = tmp_path / "annotations"
    shown = {"train2014": (1, [1, 1], ["A woman", "A puppy"]), "val2014": (2, [2, 3], ["A man on a couch"])}
    for split, (number, objects, captions) in shown.items():
        images = [{"id": number, "file_name": f"{number}.jpg"}]
        found = [{"image_id": number, "category_id": category} for category in objects]
        instances = {"images": images, "annotations": found, "categories": CATEGORIES}
        write(folder / f"instances_{split}.json", instances)
        said = [{"image_id": number, "caption": caption} for caption in captions]
        write(folder / f"captions_{split}.json", {"images": images, "annotations": said})
    return folder


@pytest.fixture
def run(capsys):
    def command(captions, annotations, *extra):
        arguments = ["chair", "--captions", str(captions), "--annotations", str(annotations), "--json", *extra]
        status = score.main(arguments)
        out, err = capsys.readouterr()
        assert status == (2 if err else 0)
        return json.loads(out) if status == 0 else err

    return command


def test_by_hand(run, annotations, tmp_path):
    found = run(write(tmp_path / "captions.json", ROWS), annotations)
    assert found["task"] == "chair"
    assert found["rule"] == "chair"
    # In image 1: dog, person; in 2: bus, couch, cup, person. Two cats and a table are in neither.
    assert found["counts"] == {
        **{"captions": 3, "failed": 0, "mentions": 6, "hallucinated_mentions": 3, "hallucinated_captions": 2},
        **{"found_objects": 2, "target_objects": 2 + 4 + 4, "words": 12 + 6 + 3},
        **{"sentences": 4, "hallucinated_sentences": 3},
    }
    assert found["metrics"] == {
        **{"chair_s": 2 / 3, "chair_i": 3 / 6, "recall": 2 / 10, "length": 21 / 3},
        "chair_sentence": 3 / 4,
    }
    assert found["units"] == {"length": "words"}
    assert found["reasons"] == {}


def test_details_say_what_was_found_in_each_caption(run, annotations, tmp_path, capsys):
    file = write(tmp_path / "captions.json", [{"image_id": 1, "caption": "A puppy and two Cats."}, *ROWS[1:]])
    plain, found = run(file, annotations), run(file, annotations, "--details")
    details = found.pop("details")
    assert found == plain
    assert list(details) == ["1-1", "2-1", "2-2"]
    assert details["1-1"] == Chair().grade(["dog", "person"], "A puppy and two Cats.").found
    assert sum(len(hallucinated_mentions(one)) for one in details.values()) == found["counts"]["hallucinated_mentions"]
    assert score.main(["chair", "--captions", str(file), "--annotations", str(annotations), "--details"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert '1-1: hallucinated "Cats" 16–20 (cat); grounded dog; missed person' in lines
    assert "2-2: hallucinated nothing; grounded nothing; missed bus, couch, cup, person" in lines


def test_all_forms_say_the_same(run, annotations, tmp_path):
    rows = ROWS[:2]
    expected = run(write(tmp_path / "a.json", rows), annotations)
    lines = tmp_path / "a.jsonl"
    lines.write_text("\n".join(map(json.dumps, rows)))
    assert run(lines, annotations) == expected
    official = {"overall": {"CIDEr": 0.5}, "imgToEval": {str(row["image_id"]): {**row, "SPICE": {}} for row in rows}}
    assert run(write(tmp_path / "b.json", official), annotations) == expected
    bare = {"imgToEval": {str(row["image_id"]): {"caption": row["caption"]} for row in rows}}
    assert run(write(tmp_path / "c.json", bare), annotations) == expected
    text_ids = [{**row, "image_id": f"{row['image_id']:012d}"} for row in rows]
    assert run(write(tmp_path / "d.json", text_ids), annotations) == expected
    assert run(write(tmp_path / "e.json", rows[::-1]), annotations)["metrics"] == expected["metrics"]
    # One line is JSON lines as well.
    assert run(write(tmp_path / "f.json", rows[0]), annotations)["counts"]["captions"] == 1


def test_captions_of_one_image_are_one_observation(run, annotations, tmp_path):
    found = run(write(tmp_path / "captions.json", ROWS[1:]), annotations)
    assert found["counts"]["captions"] == 2
    assert found["intervals"] == {}


def test_captions_without_objects_have_no_rate_of_mentions(run, annotations, tmp_path):
    found = run(write(tmp_path / "captions.json", ROWS[2:]), annotations)
    assert found["metrics"]["chair_i"] is None
    assert found["reasons"] == {"chair_i": "no caption mentions an object"}
    assert found["metrics"]["recall"] == 0.0
    empty = run(write(tmp_path / "captions.json", [{"image_id": 1, "caption": ""}]), annotations)
    assert empty["reasons"]["chair_sentence"] == "no caption has a sentence"


def test_missing_captions(run, annotations, tmp_path):
    path = write(tmp_path / "captions.json", [*ROWS[:2], {"image_id": 2, "caption": None}])
    assert "captions.json, row 3: got" in run(path, annotations)
    found = run(path, annotations, "--allow-missing")
    expected = run(write(tmp_path / "rest.json", ROWS[:2]), annotations)
    assert found["counts"] == {**expected["counts"], "failed": 1}
    assert found["metrics"] == expected["metrics"]
    path = write(tmp_path / "captions.json", [{"image_id": 2}])
    assert "with a field 'caption'" in run(path, annotations, "--allow-missing")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has no captions"),
        ([{"image_id": 7, "caption": "a dog"}], "got 1 images without annotations, the first is 7"),
        ([{"image_id": "x7", "caption": "a dog"}], "row 1: got the image_id 'x7'; expected a number"),
        ([{"image_id": "1" * 5000, "caption": "a dog"}], "expected a number"),
        ([{"image_id": 1.5, "caption": "a dog"}], "'image_id' (int or str)"),
        ([{"image_id": 1, "caption": ["a dog"]}], "with a field 'caption' (str)"),
        (["a dog"], "expected an object"),
        ({"imgToEval": ["a dog"]}, "got imgToEval of type list"),
        ({"imgToEval": {"1": "a dog"}}, "row 1: got"),
    ],
)
def test_files_that_hold_no_captions(run, annotations, tmp_path, rows, message):
    assert message in run(write(tmp_path / "captions.json", rows), annotations)


def test_annotations_that_cannot_be_used(run, annotations, tmp_path):
    captions = write(tmp_path / "captions.json", ROWS)
    assert "cannot read" in run(tmp_path / "none.json", annotations)
    assert "without instances*.json; expected COCO's" in run(captions, tmp_path / "no folder")
    path = annotations / "instances_train2014.json"
    whole = json.loads(path.read_text())
    for broken in ([], {}, {**whole, "annotations": [{}]}, {**whole, "categories": [{"id": 2, "name": "cup"}]}):
        write(path, broken)
        assert f"{path} cannot be read: got " in run(captions, annotations)
    for number in ('"x"', "null", "[]"):
        path.write_text(json.dumps(whole).replace('"image_id": 1', f'"image_id": {number}'))
        assert f"{path} cannot be read: got " in run(captions, annotations)
    unicorn = [{"id": 1, "name": "unicorn"}]
    write(path, {**whole, "categories": unicorn})
    assert "CHAIR does not know this category: got 'unicorn'" in run(captions, annotations)
    path.write_text("{")
    assert "is no JSON" in run(captions, annotations)
    for file in annotations.glob("captions*"):
        file.unlink()
    write(path, whole)
    assert "without captions*.json" in run(captions, annotations)


def test_the_table_tells_of_images_without_references(annotations, tmp_path, capsys):
    path = annotations / "captions_val2014.json"
    write(path, {**json.loads(path.read_text()), "annotations": []})
    captions = write(tmp_path / "captions.json", ROWS)
    assert score.main(["chair", "--captions", str(captions), "--annotations", str(annotations)]) == 0
    assert "2 images, 1 of them without reference captions" in capsys.readouterr().out


def test_rules_are_those_of_the_task():
    assert tuple(chair.RULES) == RULES


@pytest.fixture
def nltk_data(test_data, monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [str(test_data / "nltk"), *nltk.data.path])
    chair_wordnet._tools.cache_clear()
    if not all(map(chair_wordnet._is_there, chair_wordnet.RESOURCES.values())):
        pytest.skip("no data of nltk")


def test_the_rule_reads_captions_and_references_alike(run, annotations, tmp_path, nltk_data):
    """Both rules know the category "bus"; one of them finds the word."""
    captions = write(tmp_path / "captions.json", [{"image_id": 2, "caption": "A bus."}])
    by_rule = {rule: run(captions, annotations, "--rule", rule) for rule in RULES}
    assert [by_rule[rule]["rule"] for rule in RULES] == list(RULES)
    assert [by_rule[rule]["counts"]["found_objects"] for rule in RULES] == [0, 1]


def test_wordnet_without_its_data_is_one_line_with_the_command(run, annotations, tmp_path, monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [])
    chair_wordnet._tools.cache_clear()
    error = run(
        write(tmp_path / "captions.json", [{"image_id": 1, "caption": "nothing yet"}]), annotations, "--rule", "wordnet"
    )
    assert error.startswith("error: the rule 'wordnet' needs data of nltk")
    assert "python -m nltk.downloader punkt_tab averaged_perceptron_tagger_eng wordnet" in error


def test_real_references_hold_nothing_that_is_not_there(run, test_data, tmp_path, nltk_data):
    """References are a part of the ground truth, so as captions they are never wrong; and nothing else is."""
    source = test_data / "coco_sample"
    rows = json.loads((source / "captions.json").read_text())["annotations"]
    for rule in RULES:
        found = run(write(tmp_path / "captions.json", rows), source, "--rule", rule)
        assert found["counts"]["captions"] == 145
        assert found["metrics"]["chair_s"] == found["metrics"]["chair_i"] == found["metrics"]["chair_sentence"] == 0.0
        assert 0.3 < found["metrics"]["recall"] < 0.6
    added = [{**row, "caption": f"{row['caption'].rstrip(' .')}. A zebra."} for row in rows]
    zebras = run(write(tmp_path / "captions.json", added), source)
    images = {entry["image_id"] for entry in rows}
    truth = {r["image_id"] for r in json.loads((source / "manifest.json").read_text()) if "zebra" in r["chair_objects"]}
    assert not truth & images
    assert zebras["metrics"]["chair_s"] == 1.0
    assert zebras["counts"]["hallucinated_mentions"] == zebras["counts"]["hallucinated_sentences"] == 145


@given(content=st.binary(max_size=60) | st.text('[]{}":,1 \nimage_dcptonTEvl', max_size=80).map(str.encode))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_captions_or_one_error(tmp_path, content):
    path = tmp_path / "captions"
    path.write_bytes(content)
    with pytest.raises(DataFileError, match="captions"):
        read_captions(path, allow_missing=False)
