"""Question sets after MME and AMBER on the lab's own images, whose ground truth is exact.

What the originals ask and these cannot: colours (an object's colour is drawn at random around its category's and is not
annotated), attributes and relations. The language of the small world has no word for left, right, above or below, nor
for numbers other than one: its models were trained on captions and on questions for existence, and to the others they
can only answer from what they learnt there. The world of pictures has plain words for all of these.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from ..records import RecordError, SampleRecord
from ..stats import SampleTable
from ..tasks.amber.task import AmberYesNo
from ..tasks.base import Grade, Sample, Scores, Task, score_ratios
from ..tasks.caption_places import found_objects
from ..tasks.chair.task import extract_objects, place_objects
from ..tasks.coco import CocoData
from ..tasks.mme.rule import TASK_UNIT
from ..tasks.mme.task import MmeTask
from .pictures.language import NUMBERS, counted
from .truth import LabTruth, lab_truth
from .world.language import article

_IMAGES = 500
_OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
_SUFFIX = " Please answer yes or no."


class LabMme(MmeTask):
    """Two questions per image and task, the first to be answered yes, the second no, with MME's scores.

    `existence`: an object that is there, and one that is not, drawn from all of the world's. `count`: in the small
    world "only one" of a category seen once, and of one seen twice, of images with both; in that of pictures how many
    there are of a category, and another number. `position`, of pictures alone: the side that the one object of a
    category is on, and the opposite one. `scene`: the scene, and another.

    Metrics per task, as `benchmarks.tasks.mme.rule`: the score ("points of 200"), `<task>_acc` and `<task>_acc_plus`. A
    question whose partner has no record is in `<task>_acc` alone.
    """

    name = "lab_mme"
    version = 1
    paper = "after MME, Fu et al. 2023, arXiv:2306.13394"
    checked_against = "the scores of benchmarks.tasks.mme.rule on the same answers"
    options: ClassVar[Mapping[str, int]] = MappingProxyType({"img_num": _IMAGES})
    ability = "scene"
    tasks = ("existence", "count", "position", "scene")
    id_form = r"(?P<image>.+)-(?P<task>TASKS)-(?P<number>[12])"

    def samples(self, data: CocoData, seed: int) -> list[Sample]:
        """Four to eight questions per image, of at most 500 images with an object.

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


def _draw_images(data: CocoData, generator: random.Random, img_num: int) -> list[LabTruth]:
    rows = [truth for truth in lab_truth(data) if truth.numbers]
    return generator.sample(rows, min(img_num, len(rows)))


def _mme_questions(truth: LabTruth, generator: random.Random) -> dict[str, tuple[str, str]]:
    """Task → its question with the answer yes, and that with the answer no."""
    end = " in this image?"
    there = generator.choice(list(truth.numbers))
    absent = generator.choice([name for name in truth.world.categories if name not in truth.numbers])
    asked = {"existence": (f"Is there {article(there)} {there}{end}", f"Is there {article(absent)} {absent}{end}")}
    if truth.world.plain:
        asked |= _plain_questions(truth, generator)
    single = [name for name, number in truth.numbers.items() if number == 1]
    several = [name for name, number in truth.numbers.items() if number > 1]
    if single and several and not truth.world.plain:
        one, many = generator.choice(single), generator.choice(several)
        asked["count"] = (f"Is there only one {one}{end}", f"Is there only one {many}{end}")
    other = generator.choice([name for name in truth.world.scenes if name != truth.scene])
    scenes = (f"Is this a photo of {article(name)} {name}?" for name in (truth.scene, other))
    return asked | {"scene": (next(scenes), next(scenes))}


def _plain_questions(truth: LabTruth, generator: random.Random) -> dict[str, tuple[str, str]]:
    """Questions for a number, and for a side where a category is seen once and on one."""
    name = generator.choice(list(truth.numbers))
    number = truth.numbers[name]
    other = generator.choice([one for one in range(1, len(NUMBERS)) if one != number])
    right, wrong = (
        f"{f'Is there only one {name}' if one == 1 else f'Are there {counted(name, one)}'} in this image?"
        for one in (number, other)
    )
    asked = {"count": (right, wrong)}
    sides = [(one, side) for one, both in truth.sides.items() for side in both if side]
    if sides:
        name, side = generator.choice(sides)
        place = "on the {} side" if side in ("left", "right") else "at the {}"
        right, wrong = (f"Is the {name} {place.format(one)} of this image?" for one in (side, _OPPOSITE[side]))
        asked["position"] = (right, wrong)
    return asked


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
