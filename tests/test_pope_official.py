"""POPE's official question files, asked as they are where they lie beside the annotations."""

import json

import pytest
from coco_files import write_coco

from benchmarks.tasks.coco import CocoData
from benchmarks.tasks.pope.task import PopePopular, PopeRandom, official_samples
from scr import ConfigError


def asked(number: int, image: int, word: str, label: str) -> str:
    text = f"Is there a {word} in the image?"
    return json.dumps({"question_id": number, "image": f"{image:012d}.jpg", "text": text, "label": label})


@pytest.fixture
def folder(tmp_path):
    write_coco(tmp_path, "val", {7: ["dog", "cat", "cup"], 8: ["dog", "bed", "bus", "bird"], 9: ["cup", "car", "dog"]})
    return tmp_path


def test_the_file_is_asked_in_its_order_and_changes_the_digest(folder):
    built = CocoData.open(folder, "val")
    before = PopeRandom().samples(built, 0)
    (folder / "pope").mkdir()
    rows = [asked(1, 9, "cup", "yes"), asked(2, 9, "zebra", "no"), asked(3, 7, "cat", "yes"), asked(4, 9, "car", "yes")]
    (folder / "pope" / "coco_pope_random.json").write_text("\n".join(rows))
    data = CocoData.open(folder, "val")
    assert data.sha256 != built.sha256, "other questions are another run"
    samples = PopeRandom().samples(data, 0)
    assert [one.id for one in samples] == ["9-1", "9-2", "9-3", "7-1"], "those of an image together"
    assert [one.prompt.split()[3] for one in samples] == ["cup", "zebra", "car", "cat"]
    assert [one.target for one in samples] == ["yes", "no", "yes", "yes"]
    assert samples[0].image.name == "000000000009.jpg"
    assert PopePopular().samples(data, 0) == PopePopular().samples(built, 0), "which has no file"
    assert before != samples


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "is no JSON"),
        (asked(1, 6, "cup", "yes"), r"another image: got '000000000006.jpg'.*split 'val'"),
        (asked(1, 7, "cup", "maybe"), "expected yes or no"),
        ("", "has no questions"),
    ],
)
def test_a_file_that_cannot_be_used(folder, content, message):
    path = folder / "coco_pope_random.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        official_samples(CocoData.open(folder, "val"), path)


@pytest.mark.parametrize("version", ["coco", "coco_legacy"])
@pytest.mark.parametrize("split", ["random", "popular", "adversarial"])
def test_the_official_files_are_read(test_data, tmp_path, version, split):
    path = test_data / "pope" / version / f"coco_pope_{split}.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    images = list(dict.fromkeys(row["image"] for row in rows))
    write_coco(tmp_path, "val2014", {number: ["dog"] for number in range(len(images))})
    annotations = tmp_path / "annotations" / "instances_val2014.json"
    content = json.loads(annotations.read_text())
    for row, name in zip(content["images"], images, strict=True):
        (tmp_path / "val2014" / row["file_name"]).rename(tmp_path / "val2014" / name)
        row["file_name"] = name
    annotations.write_text(json.dumps(content))
    samples = official_samples(CocoData.open(tmp_path, "val2014"), path)
    assert [(one.prompt, one.target) for one in samples] == [(row["text"], row["label"]) for row in rows]
    assert len(samples) == (2910 if (version, split) == ("coco_legacy", "random") else 3000)
    assert len({one.id for one in samples}) == len(samples)
