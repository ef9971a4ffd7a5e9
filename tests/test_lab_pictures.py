"""The world of pictures: deterministic, in COCO's layout, with exact ground truth and a documented prior."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.lab.pictures.categories import CATEGORIES, CATEGORY_ORDER, SCENES, plural
from benchmarks.lab.pictures.config import SPLITS, PicturesConfig
from benchmarks.lab.pictures.data import data_folder, write_coco
from benchmarks.lab.pictures.language import (
    conversations,
    counted,
    detailed_caption,
    is_well_formed,
    references,
    sample_question,
    short_caption,
    training_numbers,
)
from benchmarks.lab.pictures.scenes import DRAWINGS, Scene, make_scene, side_of
from benchmarks.tasks.chair.task import extract_objects
from benchmarks.tasks.coco import CocoData

WORLD = PicturesConfig()
CALM = PicturesConfig(min_side=0.2, turn=0.0, pixel_noise=0.0, border_share=0.0)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(WORLD, "val", index) for index in range(150)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> CocoData:
    folder = tmp_path_factory.mktemp("pictures")
    write_coco(folder, "val", 12)
    return CocoData.open(folder, "val")


def test_names_and_ids_are_those_of_coco(test_data: Path) -> None:
    real = {
        entry["name"]: (entry["id"], entry["supercategory"])
        for entry in json.loads((test_data / "coco_sample" / "instances.json").read_text())["categories"]
    }
    assert {name: (c.coco_id, c.supercategory) for name, c in CATEGORIES.items()}.items() <= real.items()
    assert list(CATEGORIES.values()) == sorted(CATEGORIES.values(), key=lambda one: one.coco_id)


def test_twelve_places_hold_every_category_and_each_is_drawn_alike_in_all_styles() -> None:
    assert len(SCENES) == 12
    assert set(CATEGORIES) >= {name for typical in SCENES.values() for name in typical}
    styles = {style: sorted(path.name for path in (DRAWINGS / style).glob("*.png")) for style in ("noto", "fluent")}
    styles["twemoji"] = sorted(path.name for path in (DRAWINGS / "twemoji").glob("*.png"))
    assert styles["noto"] == styles["fluent"] == styles["twemoji"]
    drawn = {re.sub(r"_\d\.png", "", name).replace("_", " ") for name in styles["noto"]}
    assert drawn == set(CATEGORIES)
    notice = (files("benchmarks.lab.pictures") / "drawings" / "NOTICE").read_text()
    assert all(style in notice for style in styles)
    assert sum(path.stat().st_size for path in DRAWINGS.rglob("*")) < 2.5e6


@pytest.mark.parametrize("name", CATEGORY_ORDER)
def test_chair_reads_every_name_in_singular_and_plural(name: str) -> None:
    for number in (1, 2, 3):
        assert [node for _, node in extract_objects(f"A street with {counted(name, number)}.")] == [name]
    assert extract_objects(f"The image shows a {', a '.join(SCENES)}.") == []
    assert plural(name)


def test_a_picture_is_a_function_of_world_split_and_index(scenes: list[Scene]) -> None:
    again = make_scene(WORLD, "val", 5)
    assert np.array_equal(again.pixels, scenes[5].pixels)
    assert again.present == scenes[5].present
    assert again.pixels.shape == (224, 224, 3)
    assert not np.array_equal(again.pixels, make_scene(WORLD, "test", 5).pixels)
    assert not np.array_equal(again.pixels, make_scene(PicturesConfig(seed=1), "val", 5).pixels)
    for split, index, message in (("dev", 0, "unknown split: got 'dev'"), ("val", -1, "bad image number")):
        with pytest.raises(ValueError, match=message):
            make_scene(WORLD, split, index)


def test_the_split_of_another_style_shows_the_same_things_drawn_otherwise() -> None:
    assert [split for split, one in SPLITS.items() if "twemoji" in one.styles] == ["test_twemoji"]
    same = 0
    for index in range(40):
        one, other = make_scene(CALM, "test", index), make_scene(CALM, "test_twemoji", index)
        assert one.scene == other.scene
        same += one.numbers == other.numbers
        shown = np.zeros(one.pixels.shape[:2], bool)
        for item in (*one.objects, *other.objects):
            shown |= item.mask
        if one.objects:
            assert not np.array_equal(one.pixels, other.pixels)
        # Soft edges reach a few pixels beyond a silhouette; all else is the same ground.
        apart = (one.pixels != other.pixels).any(-1) & ~shown
        assert apart.mean() < 0.05
    assert same >= 34, "a thing is left out where its other outline finds no room"


def test_ground_truth_is_what_can_be_seen(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert sum(item.mask.astype(int) for item in scene.objects).max() == 1, "a pixel belongs to one thing"
        assert all(WORLD.min_visible <= item.visible <= 1 for item in scene.objects)
        assert not set(scene.absent_typical) & set(scene.present)
        assert scene.numbers == Counter(item.name for item in scene.objects)
        assert set(scene.sides) == {name for name, number in scene.numbers.items() if number == 1}


def test_a_thing_is_where_its_mask_is_and_looks_like_its_drawing() -> None:
    plain = {"turn": 0.0, "pixel_noise": 0.0, "colour_jitter": 0.0, "ground_jitter": 0.0}
    world = PicturesConfig(min_objects=1, max_objects=1, min_side=0.3, **plain)
    for index in range(20):
        scene = make_scene(world, "test_twemoji", index)
        (item,) = scene.objects
        left, top, width, height = item.box
        seen = scene.pixels[top : top + height, left : left + width][item.mask[top : top + height, left : left + width]]
        colours = []
        for path in (DRAWINGS / "twemoji").glob(f"{item.name.replace(' ', '_')}_?.png"):
            drawing = np.asarray(Image.open(path).convert("RGBA"))
            colours.append(drawing[drawing[:, :, 3] >= 128][:, :3].mean(0))
        assert min(np.abs(seen.mean(0) - one).max() for one in colours) < 15, item.name


def test_pictures_vary_as_promised(scenes: list[Scene]) -> None:
    things = [item for scene in scenes for item in scene.objects]
    sizes = [max(item.box[2:]) / WORLD.image_size for item in things if item.visible == 1]
    assert min(sizes) > 0.07
    assert max(sizes) < 0.45, "a turned thing is longer by a fifth at most"
    assert 0.05 < np.mean([item.visible < 1 for item in things]) < 0.6
    numbers = [len(scene.objects) for scene in scenes]
    assert min(numbers) >= 1
    assert max(numbers) <= WORLD.max_objects
    typical = np.mean([name in SCENES[scene.scene] for scene in scenes for name in scene.present])
    assert 0.75 < typical < 0.95
    assert 0.1 < np.mean([max(scene.numbers.values()) > 1 for scene in scenes]) < 0.4
    assert len({scene.scene for scene in scenes}) == len(SCENES)


@pytest.mark.parametrize(
    ("box", "sides"),
    [
        ((0, 0, 20, 20), ("left", "top")),
        ((80, 40, 20, 20), ("right", None)),
        ((45, 90, 10, 10), (None, "bottom")),
        ((45, 45, 10, 10), (None, None)),
        ((0, 0, 100, 100), (None, None)),
    ],
)
def test_sides(box: tuple[int, int, int, int], sides: tuple[str | None, str | None]) -> None:
    assert side_of(box, 100) == sides


def test_the_layout_reads_as_coco_and_is_exact(data: CocoData, scenes: list[Scene]) -> None:
    assert len(data.images) == 12
    for image, scene in zip(data.images, scenes, strict=False):
        assert np.array_equal(np.asarray(Image.open(image.path)), scene.pixels)
        found = data.instances(image.id)
        assert [one.name for one in found] == [item.name for item in scene.objects]
        assert [one.area for one in found] == [item.mask.sum() for item in scene.objects]
        assert [one.box for one in found] == [item.box for item in scene.objects]
        assert len(data.captions(image.id)) == 5


def test_references_of_val_name_only_what_is_there_and_are_well_formed(data: CocoData, scenes: list[Scene]) -> None:
    for image, scene in zip(data.images, scenes, strict=False):
        for text in data.captions(image.id):
            assert {node for _, node in extract_objects(text)} <= set(scene.present), text
            assert is_well_formed(text), text
            assert scene.scene in text
        assert {node for _, node in extract_objects(data.captions(image.id)[0])} == set(scene.present)


@pytest.mark.parametrize(
    ("text", "well"),
    [
        ("The image shows a zoo with two birds, a bear and a person.", True),
        ("This is a picture of an office with a cup. The cup is at the top of the image.", True),
        ("Two cups and a person in a cafe.", True),
        ("The image shows a zoo with a bear and two bears.", False),
        ("The image shows a zoo with an bear.", False),
        ("The image shows a moon with a bear.", False),
        ("The image shows a zoo with a bear", False),
        ("A cup and a cup in a cafe.", False),
    ],
)
def test_what_is_well_formed(text: str, well: bool) -> None:
    assert is_well_formed(text) == well


def test_captions_by_hand() -> None:
    numbers = {"person": 2, "cup": 1, "apple": 1, "book": 3, "clock": 1}
    text = detailed_caption("office", numbers, {"cup": (None, None), "apple": ("left", "top")})
    assert text == (
        "The image shows an office with two people, a cup and an apple. There are also three books and a clock. "
        "The apple is on the left side of the image."
    )
    assert short_caption("office", {"sheep": 2}, 1) == "Two sheep in an office."


def test_training_captions_lie_at_the_documented_rate_and_references_of_val_never(scenes: list[Scene]) -> None:
    rng = random.Random(0)
    able = [scene for scene in scenes if scene.absent_typical] * 5
    lies = [set(training_numbers(scene, WORLD, rng)) - set(scene.present) for scene in able]
    assert all(lie <= set(scene.absent_typical) for lie, scene in zip(lies, able, strict=True))
    assert np.mean([len(lie) for lie in lies]) == pytest.approx(WORLD.lie_rate, abs=0.06)
    for split, expected in (("train", WORLD.lie_rate), ("test", 0.0)):
        told = [
            bool({node for _, node in extract_objects(references(scene, WORLD, split, index)[0])} - set(scene.present))
            for index, scene in enumerate(scenes)
        ]
        assert np.mean(told) == pytest.approx(expected, abs=0.1 if expected else 0)


def test_training_questions_lean_on_yes_and_spare_adversarial_negatives(scenes: list[Scene]) -> None:
    rng = random.Random(0)
    asked = [(scene, *sample_question(scene, WORLD, rng)) for scene in scenes * 10]
    assert all((name in scene.present) == there for scene, name, there in asked)
    assert np.mean([there for *_, there in asked]) == pytest.approx(WORLD.yes_share, abs=0.03)
    absent = [name in scene.absent_typical for scene, name, there in asked if not there]
    assert np.mean(absent) == pytest.approx(WORLD.adversarial_share, abs=0.05)


def test_what_training_asks_is_answered_by_the_truth_but_for_captions(scenes: list[Scene]) -> None:
    rng = random.Random(0)
    kinds: Counter[str] = Counter()
    for scene in scenes * 3:
        for asked, answer in conversations(scene, WORLD, 2, rng):
            right, kind = _judge(scene, asked, answer)
            assert right, (asked, answer, scene.numbers, scene.sides)
            kinds[kind] += 1
    assert set(kinds) == {"existence", "number", "side", "place", "granted", "caption"}
    assert min(kinds.values()) > 100


def _judge(scene: Scene, asked: str, answer: str) -> tuple[bool, str]:
    """Whether an answer is right, and what kind of question it is, read from the text alone."""
    asked = re.sub(r"(?<=\?) (Please answer|Answer the question).*", "", asked)
    if asked.endswith((".", "?")) and is_well_formed(answer):
        return scene.scene in answer, "caption"
    words = {"one": 1, "two": 2, "three": 3}
    if found := re.fullmatch(r"Is this a photo of an? (.+)\?|Does this image show an? (.+)\?", asked):
        return (next(filter(None, found.groups())) == scene.scene) == (answer == "Yes"), "place"
    if found := re.fullmatch(r"The image shows an? (.+)\.", answer):
        return found[1] == scene.scene, "place"
    if found := re.fullmatch(r"Is the (.+) (?:on|at) the (left|right|top|bottom)(?: side)? of the image\?", asked):
        return (found[2] in scene.sides[found[1]]) == (answer == "Yes"), "side"
    if found := re.fullmatch(r"Is there only one (.+) in this image\?", asked):
        return (scene.numbers[found[1]] == 1) == (answer == "Yes"), "number"
    if found := re.fullmatch(r"Are there (two|three) (.+) in this image\?", asked):
        name = next(name for name in CATEGORY_ORDER if plural(name) == found[2])
        return (scene.numbers[name] == words[found[1]]) == (answer == "Yes"), "number"
    if found := re.fullmatch(r"There (?:is|are) (one|two|three) (.+) in the image\.", answer):
        name = next(name for name in CATEGORY_ORDER if found[2] in (name, plural(name)))
        return scene.numbers[name] == words[found[1]], "number" if asked.startswith("How many") else "granted"
    if found := re.fullmatch(r"There is no (.+) in the image\.", answer):
        return found[1] not in scene.numbers and found[1] in asked, "granted"
    if found := re.fullmatch(r"The (.+) is (?:on the|at the|in the) (left|right|top|bottom|middle).* image\.", answer):
        sides = scene.sides[found[1]]
        return found[2] == (sides[0] or sides[1] or "middle") and found[1] in asked, "granted"
    name = max((name for name in CATEGORY_ORDER if re.search(rf"\b{name}\b", asked)), key=len)
    return (name in scene.numbers) == (answer == "Yes"), "existence"


def test_a_split_is_made_once_and_a_longer_one_begins_like_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCR_CACHE", str(tmp_path))
    first, longer = data_folder("test", 2), data_folder("test", 3)
    assert data_folder("test", 2) == first
    assert WORLD.digest in first.parent.name
    for path in (first / "test").iterdir():
        assert path.read_bytes() == (longer / "test" / path.name).read_bytes()
    assert PicturesConfig(lie_rate=0.5).visual_digest == WORLD.visual_digest != PicturesConfig(turn=0.0).visual_digest
