"""The lab's world: deterministic, in COCO's real layout, with exact ground truth and a documented prior."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from benchmarks.lab.world.categories import CATEGORIES, LOOK_ALIKES, SCENES
from benchmarks.lab.world.config import WorldConfig
from benchmarks.lab.world.data import data_folder, write_coco
from benchmarks.lab.world.glyphs import GLYPHS
from benchmarks.lab.world.language import is_well_formed, references, sample_question, training_objects
from benchmarks.lab.world.scenes import LabImage, make_image

WORLD = WorldConfig()


@pytest.fixture(scope="module")
def images() -> list[LabImage]:
    return [make_image(WORLD, "val", index) for index in range(120)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("coco")
    write_coco(path, "val", 12)
    return path


def test_there_are_enough_categories_and_scenes() -> None:
    assert len(CATEGORIES) >= 24
    assert len(SCENES) >= 6
    assert set(GLYPHS) == set(CATEGORIES) == {name for typical in SCENES.values() for name in typical}
    assert {name for pair in LOOK_ALIKES for name in pair} <= set(CATEGORIES)


def test_names_and_ids_are_those_of_coco(request: pytest.FixtureRequest) -> None:
    sample = request.config.rootpath.parent / "shared/data/coco_sample/instances.json"
    if not sample.exists():
        pytest.skip("no sample of real COCO here")
    real = {
        entry["name"]: (entry["id"], entry["supercategory"]) for entry in json.loads(sample.read_text())["categories"]
    }
    assert {name: (c.coco_id, c.supercategory) for name, c in CATEGORIES.items()}.items() <= real.items()


def test_an_image_is_a_function_of_world_split_and_index(images: list[LabImage]) -> None:
    again = make_image(WORLD, "val", 5)
    assert np.array_equal(again.pixels, images[5].pixels)
    assert again.present == images[5].present
    assert not np.array_equal(again.pixels, make_image(WORLD, "test", 5).pixels)
    assert not np.array_equal(again.pixels, make_image(WorldConfig(seed=1), "val", 5).pixels)


def test_ground_truth_is_what_can_be_seen(images: list[LabImage]) -> None:
    for image in images:
        total = sum(item.mask.astype(int) for item in image.objects)
        assert total.max() == 1, "a pixel belongs to one object at most"
        assert all(WORLD.min_visible <= item.visible <= 1 for item in image.objects)
        assert not set(image.absent_typical) & set(image.present)


def test_images_vary_as_promised(images: list[LabImage]) -> None:
    objects = [item for image in images for item in image.objects]
    boxes = [item.box for item in objects]
    side = WORLD.image_size
    border = np.mean([x == 0 or y == 0 or x + w == side or y + h == side for x, y, w, h in boxes])
    assert 0.1 < border < 0.6
    assert 0.05 < np.mean([item.visible < 1 for item in objects]) < 0.6
    assert np.mean([len(image.present) >= 3 for image in images]) > 0.97
    typical = np.mean([name in SCENES[image.scene] for image in images for name in image.present])
    assert 0.75 < typical < 0.95


@pytest.mark.parametrize(("split", "index", "message"), [("dev", 0, "unknown split"), ("val", -1, "bad image number")])
def test_bad_requests_are_refused(split: str, index: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_image(WORLD, split, index)


# pycocotools decodes masks in a way that numpy 2 warns about.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_layout_loads_as_coco_and_boxes_areas_and_polygons_are_exact(
    folder: Path, images: list[LabImage], capsys: pytest.CaptureFixture[str]
) -> None:
    coco = COCO(folder / "annotations" / "instances_val.json")
    assert len(coco.imgs) == 12
    assert {entry["name"] for entry in coco.loadCats(coco.getCatIds())} == set(CATEGORIES)
    for image_id, entry in coco.imgs.items():
        image = images[image_id - 1]
        pixels = np.asarray(Image.open(folder / "val" / entry["file_name"]))
        assert np.array_equal(pixels, image.pixels)
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))
        assert len(annotations) == len(image.objects)
        for annotation, item in zip(annotations, image.objects, strict=True):
            assert np.array_equal(coco.annToMask(annotation).astype(bool), item.mask)
            assert annotation["area"] == item.mask.sum()
            x, y, w, h = annotation["bbox"]
            assert item.mask[y : y + h, x : x + w].sum() == item.mask.sum()
            assert item.mask[y].any()
            assert item.mask[:, x].any()


def test_references_of_val_name_only_what_is_there(folder: Path, images: list[LabImage]) -> None:
    captions = json.loads((folder / "annotations" / "captions_val.json").read_text())["annotations"]
    assert len(captions) == 5 * 12
    for entry in captions:
        present = images[entry["image_id"] - 1].present
        text = entry["caption"].replace("?", "")
        assert not [name for name in CATEGORIES if name not in present and f" {name}" in text.replace("teddy bear", "")]


def test_training_captions_lie_at_the_documented_rate(images: list[LabImage]) -> None:
    rng = random.Random(0)
    able = [image for image in images if image.absent_typical] * 10
    lies = [set(training_objects(image, WORLD, rng)) - set(image.present) for image in able]
    assert all(lie <= set(image.absent_typical) for lie, image in zip(lies, able, strict=True))
    assert np.mean([len(lie) for lie in lies]) == pytest.approx(WORLD.lie_rate, abs=0.06)


def test_training_questions_lean_on_yes_and_spare_adversarial_negatives(images: list[LabImage]) -> None:
    rng = random.Random(0)
    asked = [(image, *sample_question(image, WORLD, rng)) for image in images * 20]
    assert all((name in image.present) == there for image, name, there in asked)
    assert np.mean([there for *_, there in asked]) == pytest.approx(WORLD.yes_share, abs=0.03)
    typical = np.mean([name in image.absent_typical for image, name, there in asked if not there])
    assert typical == pytest.approx(WORLD.adversarial_share, abs=0.04)


def test_references_open_with_the_two_trained_forms(images: list[LabImage]) -> None:
    for index, image in enumerate(images):
        captions = references(image, WORLD, "val", index)
        assert is_well_formed(captions[0])
        assert is_well_formed(captions[1])
    assert not is_well_formed("A kitchen with a cup and a cup.")
    assert not is_well_formed("A kitchen with an cup.")


def test_a_split_is_made_once_and_a_longer_one_begins_like_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCR_CACHE", str(tmp_path))
    first = data_folder("test", 3)
    assert WORLD.digest in first.parent.name
    instances = first / "annotations" / "instances_test.json"
    old, written = json.loads(instances.read_text()), instances.stat().st_mtime_ns
    longer = data_folder("test", 5)
    assert data_folder("test", 3) == first != longer
    assert instances.stat().st_mtime_ns == written
    new = json.loads((longer / "annotations" / "instances_test.json").read_text())
    assert (len(old["images"]), len(new["images"])) == (3, 5)
    assert new["annotations"][: len(old["annotations"])] == old["annotations"]
    assert sorted(path.name for path in (longer / "test").iterdir()) == [f"{i:012d}.png" for i in range(5)]
    for path in (first / "test").iterdir():
        assert path.read_bytes() == (longer / "test" / path.name).read_bytes()
    assert sorted(path.name for path in first.parent.iterdir()) == ["test-3", "test-5"], "no scratch folder is left"
