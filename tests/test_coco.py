"""Data sets in COCO's layout: what is read, which split, and what a user is told when something is missing."""

from __future__ import annotations

import json
import shutil

import pytest
from coco_files import write_coco

from benchmarks.tasks.coco import CocoData, CocoFormatError
from scr import ConfigError, DataFileError

OBJECTS = {7: ["dog", "cat", "dog", "person"], 3: ["cat"], 5: []}
CAPTIONS = {7: ["A dog.", "A cat and a dog."], 5: ["Nothing."]}


def test_what_is_read(tmp_path):
    data = CocoData.open(write_coco(tmp_path, "val", OBJECTS, CAPTIONS))
    assert data.split == "val"
    assert [image.id for image in data.images] == [7, 3, 5]
    assert data.images[0].path == tmp_path / "val" / "000000000007.jpg"
    assert data.images[0].path.is_file()
    # Distinct names, in the order of the annotations and not of the categories.
    assert data.objects(7) == ["dog", "cat", "person"]
    assert data.objects(5) == []
    assert data.captions(7) == ["A dog.", "A cat and a dog."]
    assert data.captions(3) == []


def test_what_the_annotations_know_of_an_asked_object(tmp_path):
    path = write_coco(tmp_path, "val", OBJECTS) / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    content["images"][0] |= {"width": 200, "height": 100}
    dog, _, other_dog, person = content["annotations"][:4]
    dog |= {"area": 300, "bbox": [10, 20, 30, 40], "iscrowd": 0}
    other_dog |= {"area": 900, "bbox": [150, 30, 45, 40]}
    person |= {"area": 5000.5, "bbox": [-1, 0, 100, 100], "iscrowd": 1}
    path.write_text(json.dumps(content))
    data = CocoData.open(tmp_path)
    assert [(one.name, one.area, one.crowd) for one in data.instances(7)] == [
        ("dog", 300, False),
        ("dog", 900, False),
        ("person", 5000.5, True),
    ]
    assert data.instances(5) == []
    assert data.facts(7, "dog") == {"objects": 3, "object": {"area": 900 / 20_000, "border": 5 / 100}}
    assert data.facts(7, "person")["object"] == {"area": 5000.5 / 20_000, "border": 0}
    # Not measured, not there, in an image without a size, or no question about an object.
    for image, asked, objects in ((7, "cat", 3), (7, "bus", 3), (3, "cat", 1), (5, None, 0)):
        assert data.facts(image, asked) == {"objects": objects}
    # A crowd is the largest only where nothing else is.
    other_dog["iscrowd"] = 1
    path.write_text(json.dumps(content))
    assert CocoData.open(tmp_path).facts(7, "dog")["object"]["area"] == 300 / 20_000


def test_annotations_of_one_image_may_lie_apart(tmp_path):
    folder = write_coco(tmp_path, "val", OBJECTS)
    path = folder / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    content["annotations"].sort(key=lambda entry: entry["category_id"])
    path.write_text(json.dumps(content))
    assert CocoData.open(folder).objects(7) == ["cat", "dog", "person"]


def test_images_in_a_common_folder(tmp_path):
    data = CocoData.open(write_coco(tmp_path, "val2014", OBJECTS, images="images"), "val2014")
    assert data.images[0].path == tmp_path / "images" / "000000000007.jpg"


def test_an_empty_folder_of_the_splits_name_does_not_hide_the_images(tmp_path):
    write_coco(tmp_path, "val2014", OBJECTS, images="images")
    (tmp_path / "val2014").mkdir()
    assert CocoData.open(tmp_path).images[0].path.parent.name == "images"


@pytest.mark.parametrize(
    ("splits", "chosen"),
    [
        (["odd"], "odd"),
        (["train", "test", "val"], "test"),
        (["train2014", "val2014", "val2017"], "val2014"),
        (["train2017", "val2017"], "val2017"),
        (["train", "val"], "val"),
    ],
)
def test_the_split_that_is_meant(tmp_path, splits, chosen):
    for split in splits:
        write_coco(tmp_path, split, OBJECTS)
    assert CocoData.open(tmp_path).split == chosen
    assert CocoData.open(tmp_path, splits[0]).split == splits[0]


def test_a_split_that_nobody_can_guess(tmp_path):
    for split in ("a", "b"):
        write_coco(tmp_path, split, OBJECTS)
    with pytest.raises(ConfigError, match=r"expected one of a, b\. Choose with --split"):
        CocoData.open(tmp_path)
    with pytest.raises(ConfigError, match="got 'c'; expected one of a, b"):
        CocoData.open(tmp_path, "c")


def test_no_data_set(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match="expected COCO's layout"):
            CocoData.open(folder)


def test_no_images(tmp_path):
    shutil.rmtree(write_coco(tmp_path, "val", OBJECTS) / "val")
    with pytest.raises(ConfigError, match=r"no images: got neither .*000000000007\.jpg nor .*images"):
        CocoData.open(tmp_path)


def test_no_captions(tmp_path):
    data = CocoData.open(write_coco(tmp_path, "val", OBJECTS))
    assert not data.has_captions
    with pytest.raises(ConfigError, match=r"captions_val\.json"):
        data.captions(7)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", "{}", '{"images": [], "annotations": [], "categories": 3}', '{"images": [{}], "annotations": []}',
     '{"images": [], "categories": [], "annotations": [{"image_id": 1, "category_id": 4}]}', '"text"', "\x00"],
)  # fmt: skip
def test_broken_annotations_are_an_error_of_ours(tmp_path, content):
    (write_coco(tmp_path, "val", OBJECTS) / "annotations" / "instances_val.json").write_text(content)
    with pytest.raises(DataFileError):
        CocoData.open(tmp_path)


def test_the_digest_tells_annotations_apart(tmp_path):
    digests = [
        CocoData.open(write_coco(tmp_path / str(number), "val", objects, captions)).sha256
        for number, (objects, captions) in enumerate(
            [
                (OBJECTS, CAPTIONS),
                (OBJECTS, CAPTIONS),
                (OBJECTS, None),
                ({**OBJECTS, 3: ["dog"]}, CAPTIONS),
                (OBJECTS, {}),
            ]
        )
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4
    assert len(digests[0]) == 64


def test_real_coco_annotations(test_data, tmp_path):
    source = test_data / "coco_sample"
    (tmp_path / "annotations").mkdir()
    for kind in ("instances", "captions"):
        shutil.copy(source / f"{kind}.json", tmp_path / "annotations" / f"{kind}_val2017.json")
    (tmp_path / "images").symlink_to(source / "images")
    data = CocoData.open(tmp_path)
    assert len(data.images) == 53
    assert all(image.path.is_file() for image in data.images)
    manifest = {row["image_id"]: row for row in json.loads((source / "manifest.json").read_text())}
    for image in data.images:
        assert set(data.objects(image.id)) <= set(manifest[image.id]["chair_objects"])
    assert sum(bool(data.captions(image.id)) for image in data.images) == 29


def test_annotations_are_indexed_quietly(tmp_path, capfd):
    data = CocoData.open(write_coco(tmp_path, "val", OBJECTS, CAPTIONS))
    assert data.objects(7)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("images", lambda entries: entries.append(dict(entries[0])), "two images have one id"),
        ("annotations", lambda entries: entries[1].pop("id"), "KeyError: 'id'"),
        ("annotations", lambda entries: entries[1].update(image_id=[7]), "TypeError: unhashable"),
        ("annotations", lambda entries: entries[1].update(category_id=4), "KeyError: 4"),
        ("annotations", lambda entries: entries[1].update(area=1, bbox=[1, 2]), "ValueError: not enough values"),
        ("images", lambda entries: entries[0].update(id="seven"), "ValueError: invalid literal"),
        ("categories", lambda entries: entries[0].pop("name"), "KeyError: 'name'"),
    ],
)
def test_what_is_wrong_with_annotations_is_said_in_one_line(tmp_path, part, change, said):
    path = write_coco(tmp_path, "val", OBJECTS) / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    change(content[part])
    path.write_text(json.dumps(content))
    with pytest.raises(CocoFormatError, match=rf"^annotations of split 'val' in \S+ cannot be read: got .*{said}.*$"):
        CocoData.open(tmp_path)


@pytest.mark.parametrize("part", ["images", "annotations", "categories"])
def test_a_part_of_the_annotations_that_is_not_there(tmp_path, part):
    path = write_coco(tmp_path, "val", OBJECTS) / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    del content[part]
    path.write_text(json.dumps(content))
    with pytest.raises(CocoFormatError, match=f"got KeyError: '{part}'"):
        CocoData.open(tmp_path)
