"""Question sets after MME and AMBER on the lab's own images, whose ground truth is exact.

What the originals ask and these cannot: colours (an object's colour is drawn at random around its category's and is not
annotated), positions (the lab's language has no word for left, right, above or below), numbers other than one, and
attributes and relations (the same two reasons). The lab's models were trained on captions and on questions for
existence; to the others they can only answer from what they learnt there.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np

from scr import ConfigError
from scr.files import read_json

from ..records import RecordError, SampleRecord
from ..stats import SampleTable
from ..tasks.amber.task import AmberYesNo
from ..tasks.base import Grade, Sample, Scores, Task, score_ratios
from ..tasks.caption_places import found_objects
from ..tasks.chair.task import extract_objects, place_objects
from ..tasks.coco import CocoData, CocoImage
from ..tasks.mme.rule import TASK_UNIT
from ..tasks.mme.task import MmeTask
from .world.categories import CATEGORY_ORDER, SCENES
from .world.language import article

_LAB = "scr-vlm lab world"
_IMAGES = 500
_SUFFIX = " Please answer yes or no."


class LabTruth(NamedTuple):
    """What a lab image shows: its scene, and how many of each category can be seen, in the order of annotations."""

    image: CocoImage
    scene: str
    numbers: Mapping[str, int]

    @property
    def absent_typical(self) -> list[str]:
        """What would be typical of the scene and is not there: what the language prior invents."""
        return [name for name in SCENES[self.scene] if name not in self.numbers]


def lab_truth(data: CocoData) -> list[LabTruth]:
    """The exact ground truth of the lab's images, in the order of the annotations.

    Raises:
        ConfigError: for a data set that is none of the lab's, or whose captions do not name one scene per image.
    """
    path = data.folder / "annotations" / f"instances_{data.split}.json"
    instances = read_json(path)
    info = instances.get("info")
    found = info.get("description") if isinstance(info, dict) else None
    if found != _LAB:
        raise ConfigError(
            f"these questions need the lab's exact ground truth: got {path}, described as {found!r}; expected a data "
            f"set described as {_LAB!r}. Leave out --data-dir with a lab model, or choose other tasks."
        )
    names = {entry["id"]: entry["name"] for entry in instances["categories"]}
    numbers: dict[int, Counter[str]] = {}
    for entry in instances["annotations"]:
        numbers.setdefault(entry["image_id"], Counter())[names[entry["category_id"]]] += 1
    return [LabTruth(image, _scene(data, image.id), numbers.get(image.id, Counter())) for image in data.images]


class LabMme(MmeTask):
    """Two questions per image and task, the first to be answered yes, the second no, with MME's scores.

    `existence`: an object that is there, and one that is not, drawn from the lab's 32. `count`: "only one" of a
    category seen once, and of one seen twice; of images with both. `scene`: the scene, and another.

    Metrics per task, as `benchmarks.tasks.mme.rule`: the score ("points of 200"), `<task>_acc` and `<task>_acc_plus`. A
    question whose partner has no record is in `<task>_acc` alone.
    """

    name = "lab_mme"
    version = 1
    paper = "after MME, Fu et al. 2023, arXiv:2306.13394"
    checked_against = "the scores of benchmarks.tasks.mme.rule on the same answers"
    options: ClassVar[Mapping[str, int]] = MappingProxyType({"img_num": _IMAGES})
    tasks = ("existence", "count", "scene")
    id_form = r"(?P<image>.+)-(?P<task>TASKS)-(?P<number>[12])"

    def samples(self, data: CocoData, seed: int) -> list[Sample]:
        """Four or six questions per image, of at most 500 images with an object.

        Raises:
            ConfigError: for data that are not the lab's.
        """
        generator = random.Random(seed)
        samples = []
        for truth in _draw_images(data, generator, self.options["img_num"]):
            for task, pair in _mme_questions(truth, generator).items():
                for number, (question, target) in enumerate(zip(pair, ("yes", "no"), strict=True), start=1):
                    name = f"{truth.image.id}-{task}-{number}"
                    samples.append(Sample(id=name, image=truth.image.path, prompt=question + _SUFFIX, target=target))
        return samples

    def score(self, records: Sequence[SampleRecord]) -> Scores:
        """The scores of a run. Counts: as `YesNoTask.score`."""
        table = self.table(records)
        scores = score_ratios(table, {name: f"no {name.split('_')[0]} questions" for name in table.metrics})
        return Scores(
            metrics=scores.metrics,
            counts=super().score(records).counts,
            intervals=scores.intervals,
            reasons=scores.reasons,
            units=dict.fromkeys(self.tasks, TASK_UNIT),
        )


class LabAmberGenerative(Task):
    """Captions of images with AMBER's scores, against the exact list of objects.

    Objects are found by the words of CHAIR, which need no download, in place of a tagger's nouns. Metrics as
    `benchmarks.tasks.amber.rule`, pooled and without constants: `chair` = hallucinated mentions / mentions, `cover` =
    objects mentioned / objects there, `hal` = captions with a hallucinated mention / captions, `cog` = absent objects
    typical of the scene that are mentioned / all such objects.
    """

    name = "lab_amber_generative"
    version = 1
    paper = "after AMBER, Wang et al. 2023, arXiv:2311.07397"
    checked_against = "the task chair, on the same captions and objects"
    rule = "chair"
    kind = "caption"
    max_new_tokens = 128
    options: ClassVar[Mapping[str, int]] = MappingProxyType({"img_num": _IMAGES})
    prompt: ClassVar[str] = "Describe this image."

    def samples(self, data: CocoData, seed: int) -> list[Sample]:
        """One caption for each of at most 500 images.

        Raises:
            ConfigError: for data that are not the lab's.
        """
        return [
            Sample(
                id=f"{truth.image.id}-caption",
                image=truth.image.path,
                prompt=self.prompt,
                target={"truth": list(truth.numbers), "hallu": truth.absent_typical},
            )
            for truth in _draw_images(data, random.Random(seed), self.options["img_num"])
        ]

    def grade(self, target: Any, output: str) -> Grade:
        """What was found in a caption, which is not right or wrong as a whole.

        Raises:
            RecordError: for a target that is not as `samples` makes it.
        """
        return Grade(None, None, found_objects(output, place_objects(output), _truth(target)[0]))

    def table(self, records: Sequence[SampleRecord]) -> SampleTable:
        """What each caption contributes to the metrics; `correct` is a caption without a hallucinated mention."""
        answered = [record for record in records if record.error is None]
        rows = np.array([_count_caption(record) for record in answered], dtype=np.float64).reshape(-1, 4, 2)
        return SampleTable(
            ids=[record.id for record in answered],
            images=[record.image for record in answered],
            metrics=("chair", "cover", "hal", "cog"),
            numerators=rows[:, :, 0],
            denominators=rows[:, :, 1],
            correct=rows[:, 2, 0] == 0,
            answers=[record.output for record in answered],
        )

    def score(self, records: Sequence[SampleRecord]) -> Scores:
        """The scores of a run. Counts: captions, failed, mentions, hallucinated_mentions, hallucinated_captions."""
        table = self.table(records)
        scores = score_ratios(table, _UNDEFINED)
        wrong, hallucinated = (int(table.numerators[:, column].sum()) for column in (0, 2))
        counts = {
            "captions": len(table.ids),
            "failed": len(records) - len(table.ids),
            "mentions": int(table.denominators[:, 0].sum()),
            "hallucinated_mentions": wrong,
            "hallucinated_captions": hallucinated,
        }
        return Scores(
            metrics=scores.metrics, counts=counts, intervals=scores.intervals, reasons=scores.reasons, units={}
        )


class LabAmberExistence(AmberYesNo):
    """AMBER's questions for existence: each absent object that is typical of the scene, and as many that are there.

    AMBER asks for absent ones alone, so that "No" to everything is perfect. Metrics as AMBER's, with "No" as the
    positive class: `accuracy_existence`, `precision_existence` = right No / answered No, `recall_existence` = right No
    / truth no, `f1_existence`. Only exactly "Yes" and "No" count. In the counts "yes" is positive, as in all tasks.
    """

    name = "lab_amber_existence"
    version = 1
    paper = LabAmberGenerative.paper
    checked_against = "the plain rule of benchmarks.tasks.amber.rule on the same answers"
    part = "existence"
    options: ClassVar[Mapping[str, int]] = MappingProxyType({"img_num": _IMAGES})

    def samples(self, data: CocoData, seed: int) -> list[Sample]:
        """Questions about at most 500 images, an absent object and one that is there in turn.

        Raises:
            ConfigError: for data that are not the lab's.
        """
        generator = random.Random(seed)
        samples = []
        for truth in _draw_images(data, generator, self.options["img_num"]):
            absent, present = truth.absent_typical, list(truth.numbers)
            chosen = generator.sample(present, min(len(absent), len(present)))
            asked = [(name, "no") for name in absent] + [(name, "yes") for name in chosen]
            for number, (name, target) in enumerate(asked, start=1):
                prompt = f"Is there {article(name)} {name} in this image?"
                samples.append(
                    Sample(id=f"{truth.image.id}-{number}", image=truth.image.path, prompt=prompt, target=target)
                )
        return samples

    def kind_of(self, name: str) -> str:
        """All questions are for existence."""
        return "discriminative-hallucination"


_UNDEFINED = {
    "chair": "no caption mentions an object",
    "cover": "there is no object in any image",
    "hal": "no captions",
    "cog": "nothing that is typical of a scene is absent",
}


def _scene(data: CocoData, image_id: int) -> str:
    """The scene, which every reference caption names; these never lie about it."""
    captions = data.captions(image_id)
    found = {name for name in SCENES if captions and all(re.search(rf"\b{name}\b", text) for text in captions)}
    if len(found) != 1:
        raise ConfigError(
            f"the captions of a lab image name no scene, or several: got {sorted(found)} for image {image_id}; "
            f"expected one of {', '.join(SCENES)}. Delete the data set, so that it is made again."
        )
    return found.pop()


def _draw_images(data: CocoData, generator: random.Random, img_num: int) -> list[LabTruth]:
    rows = [truth for truth in lab_truth(data) if truth.numbers]
    return generator.sample(rows, min(img_num, len(rows)))


def _mme_questions(truth: LabTruth, generator: random.Random) -> dict[str, tuple[str, str]]:
    """Task → its question with the answer yes, and that with the answer no."""
    there = generator.choice(list(truth.numbers))
    absent = generator.choice([name for name in CATEGORY_ORDER if name not in truth.numbers])
    asked = {"existence": (f"Is there {article(there)} {there}", f"Is there {article(absent)} {absent}")}
    single = [name for name, number in truth.numbers.items() if number == 1]
    several = [name for name, number in truth.numbers.items() if number > 1]
    if single and several:
        one, many = generator.choice(single), generator.choice(several)
        asked["count"] = (f"Is there only one {one}", f"Is there only one {many}")
    questions = {task: (f"{yes} in this image?", f"{no} in this image?") for task, (yes, no) in asked.items()}
    other = generator.choice([name for name in SCENES if name != truth.scene])
    scenes = (f"Is this a photo of {article(name)} {name}?" for name in (truth.scene, other))
    questions["scene"] = (next(scenes), next(scenes))
    return questions


def _truth(target: Any, name: str = "") -> tuple[list[str], list[str]]:
    if not isinstance(target, dict) or not all(isinstance(target.get(one), list) for one in ("truth", "hallu")):
        raise RecordError(
            f"the target of caption {name!r} is wrong: got {target!r}; expected lists of objects as truth and hallu. "
            "Run it again."
        )
    return target["truth"], target["hallu"]


def _count_caption(record: SampleRecord) -> list[tuple[int, int]]:
    """Above and below the line of chair, cover, hal and cog."""
    truth, hallu = map(set, _truth(record.target, record.id))
    mentioned = [node for _, node in extract_objects(record.output)]
    wrong = sum(name not in truth for name in mentioned)
    return [
        (wrong, len(mentioned)),
        (len(truth.intersection(mentioned)), len(truth)),
        (int(wrong > 0), 1),
        (len(hallu.intersection(mentioned)), len(hallu)),
    ]
