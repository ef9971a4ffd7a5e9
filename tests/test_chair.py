"""CHAIR: every documented quirk of the official word extraction, ground truth of real COCO images, and the scores."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from itertools import chain

import nltk
import pytest
from coco_files import write_coco

from benchmarks.records import RecordError, SampleRecord
from benchmarks.tasks.chair.task import Chair, extract_objects, ground_truth
from benchmarks.tasks.coco import CocoData
from scr import ConfigError
from scr.reading import objects


def words(caption):
    return [word for word, _ in extract_objects(caption)]


def nodes(caption):
    return [node for _, node in extract_objects(caption)]


def test_words_and_nodes_in_the_order_of_the_text():
    assert extract_objects("Two Dogs on a sofa, a woman and a puppy.") == [
        ("dog", "dog"),
        ("sofa", "couch"),
        ("woman", "person"),
        ("puppy", "dog"),
    ]
    assert extract_objects("") == extract_objects("  \n") == extract_objects("The sky is blue.") == []


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        # singular forms of `pattern`, mistakes included
        ("a bus", []),
        ("buses", ["bus"]),
        ("a minibus and an airbus", []),
        ("minibuses", ["bus"]),
        ("airbuses", ["airplane"]),
        ("trolleybuses and abuses", []),
        ("ties", []),
        ("a tie", ["tie"]),
        ("a canoe", ["boat"]),
        ("canoes", []),
        ("police", []),
        ("policemen", ["person"]),
        ("collies", []),
        ("a collie", ["dog"]),
        ("doggies", []),
        ("a doggy and a doggie", ["dog", "dog"]),
        ("people, men, children", ["person"] * 3),
        ("geese, sheep, oxen, mice, knives", ["bird", "sheep", "cow", "mouse", "knife"]),
        ("scissors and skis", ["scissors", "skis"]),
        ("jeans as christmas", []),
        # double words
        ("a hot dog", ["hot dog"]),
        ("hot dogs", ["hot dog"]),
        ("a wine glass", ["wine glass"]),
        ("wine glasses", ["wine glass"]),
        ("a glass of wine", []),
        ("a tennis racket and a sports ball", ["tennis racket", "sports ball"]),
        ("a teddy bear", ["teddy bear"]),
        ("a baby elephant and an adult bear", ["elephant", "bear"]),
        ("a baby, elephant", ["person", "elephant"]),
        ("a baby animal with a cub", []),
        ("a passenger train", ["train"]),
        ("a passenger", ["person"]),
        ("a bow tie", ["tie"]),
        ("a bow", ["tie"]),
        ("a train track", []),
        ("train on a track", ["train"]),
        ("a home plate", []),
        ("a motor bike", []),
        ("a fire hydrant, a stop sign", ["fire hydrant", "stop sign"]),
        ("a stove top oven", ["oven", "oven"]),
        ("hot hot dog dog", ["hot dog", "dog"]),
        # toilet and seat
        ("a toilet seat", ["toilet"]),
        ("the seat of the toilet next to a seat", ["toilet"]),
        ("a seat", ["chair"]),
        ("a toilet and a chair", ["toilet", "chair"]),
        ("a toilet seat and a seat", ["toilet"]),
        # lines of the synonyms
        ("a cheesecake, a cupcake", ["cake"]),
        ("an iPhone", []),
        ("a television, a televison", ["tv", "tv"]),
        ("no people and no dogs", ["person", "dog"]),
        ("an orange shirt, a sub, a mouse, a turkey", ["orange", "sandwich", "mouse", "bird"]),
    ],
)
def test_quirks_of_the_official_code(caption, expected):
    assert nodes(caption) == expected


def test_a_motor_bike_is_one_word_that_no_line_of_the_synonyms_holds():
    assert "motor bike" not in objects.synonyms()
    assert " motor bike" in objects.synonyms()


def test_words_are_reported_as_merged():
    assert words("Wine glasses, hot dogs, women and tennis rackets") == ["wine glass", "hot dog", "woman", "racket"]


def test_a_full_stop_ends_a_word_only_at_the_end_of_a_sentence():
    assert nodes("There is a dog. A cat sleeps. The end") == ["dog", "cat"]
    assert nodes("Mr. dog sits on the chair!A cup") == ["dog", "chair", "cup"]
    assert nodes("dog.cat") == []


@pytest.mark.parametrize(
    "caption",
    ["\x00", "\ud800", "'", "-", "''s", "dog'", "日本語", "a" * 5000, "mothers-in-law", "- -in", "…", "dog\u00a0cat"],
)
def test_any_text_is_a_caption(caption):
    assert isinstance(extract_objects(caption), list)


def test_an_unknown_rule_lists_those_there_are():
    with pytest.raises(ConfigError, match="got 'nouns'; expected one of chair, wordnet"):
        extract_objects("a dog", rule="nouns")


def test_what_is_returned_is_the_callers():
    extract_objects("a dog").clear()
    assert nodes("a dog") == ["dog"]


def test_tokens_are_those_of_nltk(test_data, monkeypatch):
    """Our sentence splitter knows less than nltk's trained one; on real sentences it must not matter."""
    if not (test_data / "nltk" / "tokenizers" / "punkt_tab").is_dir():
        pytest.skip("no nltk data among the test data")
    monkeypatch.setattr(nltk.data, "path", [str(test_data / "nltk")])
    rows = json.loads((test_data / "coco_sample" / "captions.json").read_text())["annotations"]
    captions = [row["caption"] for row in rows]
    texts = [*captions, *(" ".join(captions[i : i + 5]) for i in range(0, len(captions), 5))]
    texts += [
        row["gt_answer_details"]
        for row in json.loads((test_data / "hallusionbench" / "HallusionBench.json").read_text())
    ]
    texts += [
        "He left at 5 p.m. and the dog stayed.",
        "Mr. Smith vs. the cat ... no. A bus, e.g. a red one!",
        "U.S. flag.",
    ]
    different = [
        text for text in texts if list(chain(*objects._tokens(text.lower()))) != nltk.word_tokenize(text.lower())
    ]
    assert different == []


def test_ground_truth_of_real_images_is_the_official_one(test_data):
    source = test_data / "coco_sample"
    data = {kind: json.loads((source / f"{kind}.json").read_text()) for kind in ("instances", "captions")}
    names = {category["id"]: category["name"] for category in data["instances"]["categories"]}
    categories, captions = {}, {}
    for row in data["instances"]["annotations"]:
        categories.setdefault(row["image_id"], []).append(names[row["category_id"]])
    for row in data["captions"]["annotations"]:
        captions.setdefault(row["image_id"], []).append(row["caption"])
    checked = 0
    for row in json.loads((source / "manifest.json").read_text()):
        number = row["image_id"]
        if number in captions:  # the official sets of the others know captions that are not among the test data
            assert ground_truth(categories.get(number, []), captions[number]) == sorted(row["chair_objects"])
            checked += 1
    assert checked == 29


def test_ground_truth():
    assert ground_truth(["dog", "tv"], ["A puppy by the television", "a sofa"]) == ["couch", "dog", "tv"]
    with pytest.raises(ConfigError, match="got 'unicorn'; expected one of COCO's 80"):
        ground_truth(["dog", "unicorn"], [])


def test_the_80_objects(test_data):
    assert len(set(objects.synonyms().values())) == 80
    shipped = (files("scr.reading") / "synonyms.txt").read_text()
    assert shipped == (test_data / "chair" / "synonyms.txt").read_text()
    assert "Redistribution and use" in (files("scr.reading") / "NOTICE").read_text()


# Samples


@pytest.fixture
def data(tmp_path):
    objects = {number: ["dog", "cup"] if number % 2 else [] for number in range(1, 31)}
    captions = {number: ["A man on a sofa", "A couch"] for number in range(1, 21)}
    return CocoData.open(write_coco(tmp_path, "val", objects, captions))


def test_samples(data):
    samples = Chair().samples(data, 0)
    assert {sample.id for sample in samples} == {str(number) for number in range(1, 21)}
    for sample in samples:
        assert sample.prompt == "Please describe this image in detail."
        assert sample.image.stem == f"{int(sample.id):012d}"
        assert sample.target == (["couch", "cup", "dog", "person"] if int(sample.id) % 2 else ["couch", "person"])
    assert samples == Chair().samples(data, 0)
    assert [sample.id for sample in samples] != [sample.id for sample in Chair().samples(data, 1)]


def test_at_most_500_images(tmp_path):
    folder = write_coco(tmp_path, "val", {n: ["dog"] for n in range(1, 521)}, {n: ["a dog"] for n in range(1, 521)})
    samples = Chair().samples(CocoData.open(folder), 0)
    assert len(samples) == len({sample.id for sample in samples}) == 500


def test_without_captions_there_is_no_ground_truth(tmp_path):
    with pytest.raises(ConfigError, match=r"captions_val\.json"):
        Chair().samples(CocoData.open(write_coco(tmp_path, "val", {1: ["dog"]})), 0)


def test_samples_of_real_annotations(test_data, tmp_path):
    source = test_data / "coco_sample"
    (tmp_path / "annotations").mkdir()
    for kind in ("instances", "captions"):
        shutil.copy(source / f"{kind}.json", tmp_path / "annotations" / f"{kind}_sample.json")
    (tmp_path / "images").symlink_to(source / "images")
    samples = Chair().samples(CocoData.open(tmp_path), 0)
    assert len(samples) == 29
    assert all(sample.image.is_file() and sample.target == sorted(set(sample.target)) for sample in samples)


# Scores


def record(number, output, target, image=None, error=None):
    image = image or str(number)
    return SampleRecord(id=str(number), image=image, prompt="?", target=target, output=output, error=error)


RECORDS = [
    record(1, "A dog and two dogs with a cat.", ["dog", "person"]),
    record(2, "A man.", ["person", "cup"]),
    record(3, "The sky.", ["bird"]),
]


def test_scores_by_hand():
    scores = Chair().score(RECORDS)
    assert scores.counts == {
        "captions": 3,
        "failed": 0,
        "mentions": 4,
        "hallucinated_mentions": 1,
        "hallucinated_captions": 1,
        "found_objects": 2,
        "target_objects": 5,
        "words": 9 + 3 + 3,
        "sentences": 3,
        "hallucinated_sentences": 1,
    }
    assert scores.metrics == pytest.approx(
        {"chair_s": 1 / 3, "chair_i": 1 / 4, "recall": 2 / 5, "length": 5.0, "chair_sentence": 1 / 3}
    )
    assert scores.units == {"length": "words"}
    assert scores.reasons == {}
    for name, (low, high) in scores.intervals.items():
        assert low <= scores.metrics[name] <= high


def test_sentences_by_hand():
    """Two cats in one sentence are one wrong sentence; "..." is none; a mention belongs to where it begins."""
    records = [
        record(1, "A dog sits. Two cats and a cat! A car? Mr. cup. ...", ["dog", "cup"]),
        record(2, "- a dog\n- a cat", ["dog"]),
        record(3, "", ["dog"]),
    ]
    scores = Chair().score(records)
    assert (scores.counts["sentences"], scores.counts["hallucinated_sentences"]) == (5, 3)
    assert scores.metrics["chair_sentence"] == pytest.approx(3 / 5)
    assert scores.metrics["chair_s"] == pytest.approx(2 / 3)
    assert scores.counts["hallucinated_mentions"] == 4


def test_length_counts_words_before_a_seat_is_dropped_and_double_words_once():
    scores = Chair().score([record(1, "the seat of the toilet by a hot dog", ["toilet"])])
    assert scores.metrics["length"] == 8
    assert scores.counts["mentions"] == 2


def test_captions_without_objects_have_no_rate_of_mentions():
    scores = Chair().score([record(1, "The sky.", []), record(2, "", [])])
    assert scores.metrics["chair_i"] is None
    assert scores.metrics["recall"] is None
    assert scores.metrics["chair_s"] == 0.0
    assert set(scores.reasons) == {"chair_i", "recall"}
    assert set(scores.intervals) == {"chair_s", "length", "chair_sentence"}
    empty = Chair().score([])
    assert set(empty.metrics.values()) == {None}
    assert set(empty.reasons) == set(empty.metrics)


def test_a_failed_sample_is_counted_and_is_no_caption():
    scores = Chair().score([*RECORDS, record(4, "", ["dog"], error="out of memory")])
    assert scores.counts["failed"] == 1
    assert scores.metrics == Chair().score(RECORDS).metrics


def test_several_captions_of_one_image_are_one_cluster():
    records = [
        record(f"{n}-{k}", "a cat" if n % 3 else "a dog", ["dog"], image=str(n)) for n in range(20) for k in range(3)
    ]
    single = [record(n, "a cat" if n % 3 else "a dog", ["dog"]) for n in range(20)]
    renamed = [record(f"{r.id}", r.output, r.target, image=r.image) for r in single]
    assert Chair().score(records).metrics == pytest.approx(Chair().score(single).metrics)
    several, alone = Chair().score(records).intervals["chair_i"], Chair().score(renamed).intervals["chair_i"]
    assert several == pytest.approx(alone)


@pytest.mark.parametrize("target", [None, "dog", ["dog", 1], {"dog": 1}])
def test_a_target_that_is_no_list_of_objects_is_refused(target):
    with pytest.raises(RecordError, match="target of caption '1' is wrong"):
        Chair().score([record(1, "a dog", target)])


def test_comparison_of_captions():
    after = [record(1, "A dog.", RECORDS[0].target), RECORDS[1], record(3, "A cat in the sky.", RECORDS[2].target)]
    found = Chair().compare(RECORDS, after)
    assert (found.changed, found.wrong_to_right, found.right_to_wrong) == (2, 1, 1)
    assert found.differences["chair_i"].value == pytest.approx(1 / 3 - 1 / 4)
    assert found.differences["chair_s"].value == 0.0
    assert "auc" not in found.differences


def test_a_target_that_is_no_list_has_no_grade():
    with pytest.raises(RecordError, match="target of a caption is wrong: got 'dog'; expected a list of objects"):
        Chair().grade("dog", "a cat")
