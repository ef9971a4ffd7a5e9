"""`score caption`, and the task: files in, scores out."""

from __future__ import annotations

import json

import pytest
from coco_files import write_coco
from test_caption_metrics import CAPTIONS, GOLDEN, REFERENCES

from benchmarks.records import RecordError, SampleRecord
from benchmarks.score import main
from benchmarks.tasks import load_task
from benchmarks.tasks.caption.task import Caption
from benchmarks.tasks.coco import CocoData
from scr import ConfigError


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def score(capsys, tmp_path, references, captions, *flags):
    files = [
        "--references", write(tmp_path / "references.json", references),
        "--captions", write(tmp_path / "captions.json", captions),
    ]  # fmt: skip
    code = main(["caption", *files, *flags])
    return code, *capsys.readouterr()


def test_scores(capsys, tmp_path):
    code, out, _ = score(capsys, tmp_path, REFERENCES, CAPTIONS, "--json")
    found = json.loads(out)
    bleus, ciders, rouges = GOLDEN["1234"]
    assert code == 0
    assert (found["task"], found["rule"], found["reasons"]) == ("caption", "ptb", {})
    golden = [sum(ciders) / 4, *bleus, sum(rouges) / 4]
    assert list(found["metrics"]) == ["cider", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l"]
    assert list(found["metrics"].values()) == pytest.approx(golden, rel=1e-9)
    assert found["units"] == {"cider": "points of 10"}
    assert found["counts"] == {"captions": 4, "references": 8, "words": 15 + 5 + 7, "reference_words": 11 + 6 + 8 + 5}
    for name, (low, high) in found["intervals"].items():
        assert low <= found["metrics"][name] <= high


@pytest.mark.parametrize(
    "content",
    [
        [{"image_id": 1, "caption": "a dog"}, {"image_id": "2", "caption": "a cat"}],
        '{"image_id": 1, "caption": "a dog"}\n\n{"id": "2", "caption": "a cat"}\n',
        {"1": ["a dog"], "2": "a cat"},
    ],
)
def test_files_of_other_forms(capsys, tmp_path, content):
    coco = {"annotations": [{"image_id": n, "caption": text} for n, text in ((1, "a dog"), (1, "dogs"), (2, "a cat"))]}
    code, out, err = score(capsys, tmp_path, coco, content, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["counts"]["references"] == 3
    assert json.loads(out)["metrics"]["rouge_l"] == pytest.approx(1.0)


def test_one_image_has_a_cider_of_0_and_a_note(capsys, tmp_path):
    code, out, _ = score(capsys, tmp_path, {"1": "a dog"}, {"1": "a dog"})
    assert code == 0
    assert "cider        " in out
    assert "CIDEr-D of a single image is 0" in out


def test_missing_captions(capsys, tmp_path):
    fewer = {one: CAPTIONS[one] for one in "12"}
    code, _, err = score(capsys, tmp_path, REFERENCES, fewer)
    assert code == 2
    assert "got 2 ids missing: '3', '4'" in err
    code, out, _ = score(capsys, tmp_path, REFERENCES, fewer, "--allow-missing", "--json")
    found = json.loads(out)
    assert found["counts"]["missing"] == 2
    assert found["metrics"]["cider"] == pytest.approx(sum(GOLDEN["12"][1]) / 2)
    code, out, _ = score(capsys, tmp_path, REFERENCES, {}, "--allow-missing", "--json")
    found = json.loads(out)
    assert (code, set(found["metrics"].values()), set(found["reasons"])) == (0, {None}, set(found["metrics"]))


@pytest.mark.parametrize(
    ("references", "captions", "message"),
    [
        ({"1": ["a"]}, {"1": "a", "2": "b"}, "got 1 ids of no question: '2'"),
        ({"1": ["a"]}, [{"image_id": 1, "caption": "a"}, {"image_id": "1", "caption": "b"}], "answered twice"),
        ({"1": []}, {"1": "a"}, "references of '1': got []"),
        ({"1": [3]}, {"1": "a"}, "expected a list of one or more texts"),
        ([1], {"1": "a"}, "got [1]; expected an object"),
        ({"1": ["a"]}, {"1": 3}, "caption of '1': got 3; expected one text"),
        ({"1": ["a"]}, {"1": ["a", "b"]}, "expected one text"),
        ({"1": ["a"]}, [{"caption": "a"}], "expected an object with a field 'id'"),
        ({"1": ["a"]}, "{broken", "line 1 is no JSON"),
        ("{broken", {"1": "a"}, "is no JSON"),
        ({"1": ["a"]}, "3", "row 1: got 3"),
    ],
)
def test_files_that_cannot_be_used(capsys, tmp_path, references, captions, message):
    code, out, err = score(capsys, tmp_path, references, captions)
    assert (code, out) == (2, "")
    assert message in err


# The task


@pytest.fixture
def data(tmp_path):
    captions = {number: [f"a dog number {number}", "a couch"] for number in range(1, 21)}
    return CocoData.open(write_coco(tmp_path, "val", {number: ["dog"] for number in range(1, 31)}, captions))


def test_samples_are_the_images_of_chair(data):
    samples = load_task("caption").samples(data, 0)
    same = load_task("chair").samples(data, 0)
    assert [(one.id, one.image, one.prompt) for one in samples] == [(one.id, one.image, one.prompt) for one in same]
    assert len(samples) == 20
    assert all(sample.target == [f"a dog number {sample.id}", "a couch"] for sample in samples)


def test_without_captions_there_are_no_references(tmp_path):
    with pytest.raises(ConfigError, match=r"captions_val\.json"):
        Caption().samples(CocoData.open(write_coco(tmp_path, "val", {1: ["dog"]})), 0)


def records(captions, error=None):
    return [
        SampleRecord(id=one, image=one, prompt="?", target=REFERENCES[one], output=text, error=error)
        for one, text in captions.items()
    ]


def test_scores_of_records():
    bleus, ciders, _ = GOLDEN["12"]
    failed = records({"3": ""}, error="out of memory")
    found = Caption().score([*records({one: CAPTIONS[one] for one in "21"}), *failed])
    assert found.metrics["cider"] == pytest.approx(sum(ciders) / 2)
    assert [found.metrics[f"bleu_{n}"] for n in range(1, 5)] == pytest.approx(bleus)
    assert found.counts["failed"] == 1
    assert set(Caption().score([]).metrics.values()) == {None}
    with pytest.raises(RecordError, match="got \\[\\]; expected a list of reference captions"):
        Caption().score([SampleRecord(id="1", image="1", prompt="", target=[], output="a")])


def test_comparison_weighs_words_by_the_images_that_both_have():
    before = records({one: CAPTIONS[one] for one in "1234"})
    after = records({"2": CAPTIONS["2"], "1": "A brown dog sleeps on a bed"})
    found = Caption().compare(before, after)
    own, other = Caption().score(before[:2]).metrics, Caption().score(after).metrics
    assert list(found.differences) == ["cider", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l"]
    for name, difference in found.differences.items():
        assert difference.value == pytest.approx(other[name] - own[name])
        assert difference.interval.low <= difference.value <= difference.interval.high
    assert (found.n, found.unpaired, found.changed) == (2, 2, 1)
    assert (found.right_to_wrong, found.wrong_to_right, found.mcnemar_p) == (0, 0, 1.0)
    assert all(one.value == 0 for one in Caption().compare(before, before).differences.values())
    with pytest.raises(ValueError, match="share no sample"):
        Caption().compare(before[:1], before[1:2])
