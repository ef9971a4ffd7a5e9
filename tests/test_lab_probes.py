"""The lab's question sets after MME and AMBER: exact truth, the lab's words, and the scores of the originals."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest
from coco_files import write_coco as write_other

from benchmarks.lab.pictures.config import PicturesConfig
from benchmarks.lab.pictures.data import write_coco as write_pictures
from benchmarks.lab.pictures.language import NUMBERS
from benchmarks.lab.pictures.scenes import make_scene
from benchmarks.lab.probes import LabAmberExistence, LabAmberGenerative, LabMme
from benchmarks.lab.truth import lab_truth
from benchmarks.lab.world.categories import CATEGORY_ORDER, SCENES
from benchmarks.lab.world.config import WorldConfig
from benchmarks.lab.world.data import write_coco
from benchmarks.lab.world.language import all_words
from benchmarks.lab.world.scenes import make_image
from benchmarks.records import RecordError, SampleRecord
from benchmarks.running.plan import RunConfig
from benchmarks.running.runner import run
from benchmarks.tasks import expand_tasks, load_task
from benchmarks.tasks.amber.rule import Response, score_responses
from benchmarks.tasks.chair.task import Chair
from benchmarks.tasks.coco import CocoData
from benchmarks.tasks.mme.rule import Answer, score_tasks
from scr import ConfigError

COUNT = 60
TASKS = (LabMme, LabAmberGenerative, LabAmberExistence)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> CocoData:
    folder = tmp_path_factory.mktemp("lab")
    write_coco(folder, "test", COUNT)
    return CocoData.open(folder, "test")


@pytest.fixture(scope="module")
def world():
    """File name → the image as the world makes it: the truth, from another source than the annotations."""
    return {f"{index:012d}.png": make_image(WorldConfig(), "test", index) for index in range(COUNT)}


def answered(task, data, say, seed=0):
    """Records of all samples; `say` gives the output of each."""
    return [
        SampleRecord(id=s.id, image=s.image.name, prompt=s.prompt, target=s.target, output=say(s))
        for s in task.samples(data, seed)
    ]


def test_truth_is_that_of_the_world(data, world):
    truths = lab_truth(data)
    assert len(truths) == COUNT
    for truth in truths:
        image = world[truth.image.path.name]
        assert truth.scene == image.scene
        assert truth.numbers == Counter(item.name for item in image.objects)
        assert truth.absent_typical == list(image.absent_typical)


@pytest.mark.parametrize("task", TASKS)
def test_other_data_are_refused(task, tmp_path):
    other = CocoData.open(write_other(tmp_path, "val", {1: ["cat", "dog"]}, {1: ["A cat and a dog in a park."]}))
    with pytest.raises(ConfigError, match=r"need the lab's exact ground truth.*described as None"):
        task().samples(other, 0)


def test_a_lab_image_without_a_scene_is_refused(tmp_path):
    write_coco(tmp_path, "test", 2)
    path = tmp_path / "annotations" / "captions_test.json"
    text = path.read_text()
    path.write_text(re.sub("|".join(SCENES), "place", text))
    with pytest.raises(ConfigError, match=r"name no scene, or several: got \[\]"):
        lab_truth(CocoData.open(tmp_path))
    path.unlink()
    with pytest.raises(ConfigError, match="no reference captions"):
        lab_truth(CocoData.open(tmp_path))


@pytest.mark.parametrize("task", TASKS)
def test_questions_are_fixed_by_the_seed_and_speak_the_labs_language(task, data):
    samples = task().samples(data, 0)
    random.seed(1)
    assert task().samples(data, 0) == samples
    assert task().samples(data, 1) != samples
    assert len({sample.id for sample in samples}) == len(samples)
    vocabulary = set(all_words())
    for sample in samples:
        assert set(re.findall(r"\w+|[^\w\s]", sample.prompt.lower())) <= vocabulary
        assert int(sample.id.split("-")[0]) == int(sample.image.stem) + 1
    images = [sample.image for sample in samples]
    assert len(set(images)) == len([one for one, before in zip(images, [None, *images], strict=False) if one != before])


def test_questions_after_mme(data, world):
    samples = LabMme().samples(data, 0)
    seen = Counter()
    for first, second in zip(samples[::2], samples[1::2], strict=True):
        image = world[first.image.name]
        numbers = Counter(item.name for item in image.objects)
        task = first.id.split("-")[1]
        assert (first.id[:-1], first.target, second.target) == (second.id[:-1], "yes", "no")
        for sample in (first, second):
            text = sample.prompt.removesuffix(" Please answer yes or no.")
            if task == "existence":
                name = re.fullmatch(r"Is there an? (.+) in this image\?", text)[1]
                right = numbers[name] > 0
                assert name in CATEGORY_ORDER
            elif task == "count":
                name = re.fullmatch(r"Is there only one (.+) in this image\?", text)[1]
                right = numbers[name] == 1
                assert numbers[name] > 0
            else:
                name = re.fullmatch(r"Is this a photo of an? (.+)\?", text)[1]
                right = name == image.scene
                assert name in SCENES
            assert right == (sample.target == "yes")
        seen[task] += 1
    assert seen["existence"] == seen["scene"] == COUNT
    repeated = [image for image in world.values() if {1, 2} <= set(Counter(o.name for o in image.objects).values())]
    assert seen["count"] == len(repeated) > 3


def test_questions_after_mme_about_pictures(tmp_path):
    write_pictures(tmp_path, "test", 25)
    samples = LabMme().samples(CocoData.open(tmp_path), 0)
    scenes = {f"{index:012d}.png": make_scene(PicturesConfig(), "test", index) for index in range(25)}
    seen = Counter()
    for sample in samples:
        scene, task = scenes[sample.image.name], sample.id.split("-")[1]
        text = sample.prompt.removesuffix(" Please answer yes or no.")
        if task == "count":
            name = re.fullmatch(r"Is there only one (.+) in this image\?", text)
            number = 1 if name else NUMBERS.index(text.split()[2])
            assert name or re.fullmatch(r"Are there (two|three) .+ in this image\?", text)
            right = number in scene.numbers.values() if sample.target == "yes" else False
            if name:
                right = scene.numbers[name[1]] == 1
        elif task == "position":
            form = r"Is the (.+) (?:on the (left|right) side|at the (top|bottom)) of this image\?"
            name, *side = re.fullmatch(form, text).groups()
            right = next(filter(None, side)) in scene.sides[name]
        elif task == "scene":
            right = re.fullmatch(r"Is this a photo of an? (.+)\?", text)[1] == scene.scene
        else:
            right = re.fullmatch(r"Is there an? (.+) in this image\?", text)[1] in scene.numbers
        assert right == (sample.target == "yes"), (text, scene.numbers, scene.sides)
        seen[task] += 1
    assert seen["existence"] == seen["scene"] == seen["count"] == 50
    assert 38 < seen["position"] <= 50
    for truth, scene in zip(lab_truth(CocoData.open(tmp_path)), scenes.values(), strict=True):
        assert (truth.scene, truth.numbers, truth.sides) == (scene.scene, scene.numbers, scene.sides)


def test_scores_after_mme_are_those_of_mme(data):
    generator = random.Random(0)
    records = answered(LabMme(), data, lambda sample: generator.choice(["Yes", "No", "yes.", "perhaps", "Not"]))
    scores = LabMme().score(records)
    tasks = {}
    for first, second in zip(records[::2], records[1::2], strict=True):
        pair = tuple(Answer(r.image, r.target, LabMme().grade(r.target, r.output).answer) for r in (first, second))
        tasks.setdefault(first.id.split("-")[1], []).append(pair)
    expected = score_tasks(tasks).metrics
    assert scores.metrics == pytest.approx({name: expected[name] for name in scores.metrics})
    assert set(scores.metrics) == {
        f"{t}{p}" for t in ("existence", "count", "position", "scene") for p in ("", "_acc", "_acc_plus")
    }
    assert scores.units == dict.fromkeys(("existence", "count", "position", "scene"), "points of 200")
    assert scores.metrics["position"] is None
    assert scores.reasons["position"] == "no position questions"
    assert scores.counts["n"] == len(records)
    generator.shuffle(records)
    assert LabMme().score(records).metrics == pytest.approx(scores.metrics)


def test_scores_after_mme_by_hand():
    def record(name, target, output, **fields):
        return SampleRecord(id=name, image=name[0], prompt="?", target=target, output=output, **fields)

    records = [
        record("1-existence-1", "yes", "Yes"),
        record("1-existence-2", "no", "No"),
        record("2-existence-1", "yes", "Yes"),
        record("2-existence-2", "no", "No", error="out of memory"),
        record("2-scene-1", "yes", "Yes"),
    ]
    scores = LabMme().score(records)
    assert scores.metrics["existence_acc"] == 3 / 4
    assert scores.metrics["existence_acc_plus"] == 1 / 2
    assert scores.metrics["existence"] == pytest.approx(125)
    assert scores.metrics["scene_acc"] == 1  # without its partner it is no pair
    assert scores.metrics["scene"] is None
    assert scores.reasons["count"] == "no count questions"
    with pytest.raises(RecordError, match="got '1-colour-1'"):
        LabMme().score([record("1-colour-1", "yes", "Yes")])
    assert set(LabMme().score([]).metrics.values()) == {None}
    better = [*records[:3], record("2-existence-2", "no", "No"), records[4]]
    found = LabMme().compare(records, better)
    assert found.differences["existence"].value == pytest.approx(75)
    assert (found.wrong_to_right, found.right_to_wrong) == (1, 0)


def test_captions_after_amber(data, world):
    task = LabAmberGenerative()
    samples = task.samples(data, 0)
    assert len(samples) == COUNT
    for sample in samples:
        image = world[sample.image.name]
        assert set(sample.target["truth"]) == set(image.present)
        assert sample.target["hallu"] == list(image.absent_typical)
    scores = task.score(answered(task, data, lambda s: f"A {', a '.join([*s.target['truth'], *s.target['hallu']])}."))
    truth, hallu = (sum(len(sample.target[name]) for sample in samples) for name in ("truth", "hallu"))
    assert scores.metrics == pytest.approx(
        {
            "chair": hallu / (truth + hallu),
            "cover": 1,
            "hal": sum(bool(sample.target["hallu"]) for sample in samples) / COUNT,
            "cog": 1,
        }
    )
    # The same as CHAIR's on the same objects.
    generator = random.Random(0)
    records = answered(task, data, lambda s: " ".join(f"a {name}" for name in generator.choices(CATEGORY_ORDER, k=4)))
    scores = task.score(records)
    chair = Chair().score([SampleRecord(**{**r.to_dict(), "target": r.target["truth"]}) for r in records]).metrics
    assert [scores.metrics[name] for name in ("chair", "hal", "cover")] == pytest.approx(
        [chair[name] for name in ("chair_i", "chair_s", "recall")]
    )


def test_captions_that_failed_or_mention_nothing():
    record = SampleRecord(
        id="1-caption", image="1", prompt="?", target={"truth": ["dog"], "hallu": []}, output="The sky."
    )
    failed = SampleRecord(**{**record.to_dict(), "id": "2-caption", "error": "out of memory"})
    scores = LabAmberGenerative().score([record, failed])
    assert scores.metrics == {"chair": None, "cover": 0.0, "hal": 0.0, "cog": None}
    assert set(scores.reasons) == {"chair", "cog"}
    assert scores.counts["failed"] == 1
    for target in (None, ["dog"], {"truth": ["dog"]}):
        with pytest.raises(RecordError, match="expected lists of objects as truth and hallu"):
            LabAmberGenerative().score([SampleRecord(**{**record.to_dict(), "target": target})])


def test_questions_after_amber(data, world):
    by_image = {}
    for sample in LabAmberExistence().samples(data, 0):
        name = re.fullmatch(r"Is there an? (.+) in this image\?", sample.prompt)[1]
        by_image.setdefault(sample.image.name, []).append((name, sample.target))
    for file, asked in by_image.items():
        image = world[file]
        assert [name for name, target in asked if target == "no"] == list(image.absent_typical)
        present = [name for name, target in asked if target == "yes"]
        assert set(present) <= set(image.present)
        assert len(set(present)) == len(present) == min(len(image.absent_typical), len(image.present))
    assert set(by_image) == {file for file, image in world.items() if image.absent_typical}


def test_scores_after_amber_are_those_of_amber(data):
    generator = random.Random(0)
    task = LabAmberExistence()
    records = answered(task, data, lambda sample: generator.choice(["Yes", "No", "No", "no", "Yes."]))
    scores = task.score(records)
    responses = [
        Response(r.image, "discriminative-hallucination", None, r.target, task.grade(r.target, r.output).answer)
        for r in records
    ]
    expected = score_responses(responses, "plain").metrics
    assert scores.metrics == pytest.approx({name: expected[name] for name in scores.metrics})
    assert list(scores.metrics) == [f"{name}_existence" for name in ("accuracy", "precision", "recall", "f1")]
    assert scores.counts["unparsed"] == sum(r.output in ("no", "Yes.") for r in records)
    silent = task.score(answered(task, data, lambda sample: "Yes"))
    assert silent.metrics["precision_existence"] is None
    assert silent.reasons == {"precision_existence": "no answer was No"}


def test_the_group():
    assert expand_tasks(["lab_amber"]) == ["lab_amber_generative", "lab_amber_existence"]
    assert load_task("lab_mme").name == "lab_mme"


@pytest.mark.usefixtures("one_thread")
def test_a_run_on_two_images(data, tmp_path: Path):
    config = RunConfig(
        methods=("none",),
        tasks=("lab_mme", "lab_amber"),
        data_dir=data.folder,
        limit=2,
        batch_size=3,
        generation={"max_new_tokens": 12},
        output_dir=tmp_path,
    )
    outcomes = run(config)
    assert [one.cell.work.task.name for one in outcomes] == ["lab_mme", *expand_tasks(["lab_amber"])]
    for outcome in outcomes:
        assert len({record.image for record in outcome.records}) == 2
        stored = json.loads((outcome.cell.folder.path / "run.json").read_text())
        assert stored["metrics"] == outcome.cell.work.task.score(outcome.records).metrics
        assert stored["status"] == "finished"
    assert {record.output for record in outcomes[0].records} <= {"Yes", "No"}
    assert outcomes[1].records[0].output.startswith(("The image shows", "A"))
