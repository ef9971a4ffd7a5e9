"""POPE: its official questions reproduced from what is published, the construction, and the scores."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from coco_files import write_coco

from benchmarks.records import RecordError, SampleRecord
from benchmarks.tasks import GROUPS, TASKS, UnknownTaskError, expand_tasks, load_task
from benchmarks.tasks.coco import CocoData
from benchmarks.tasks.parsing import RULES
from benchmarks.tasks.pope.task import ObjectTables, PopeAdversarial, PopePopular, PopeRandom, object_tables, question
from benchmarks.tasks.yes_no import AGGREGATIONS, score_answers
from scr import ConfigError

SPLITS = ("random", "popular", "adversarial")
NAMES = [
    "person", "dining table", "car", "chair", "cup", "bottle", "bowl", "dog", "cat", "umbrella", "orange", "oven",
    "bus", "elephant",
]  # fmt: skip


class Forbidden(random.Random):
    """A generator that fails the test when it is used."""

    def random(self):
        raise AssertionError("a draw where none is expected")

    getrandbits = random


class OfficialImage:
    """An image of the official files: what it was asked, and which objects it must therefore show."""

    def __init__(self, name):
        self.name, self.asked, self.texts = name, {}, []

    @property
    def positives(self):
        return [name for name, label in self.asked["random"] if label == "yes"]

    def negatives(self, split):
        return [name for name, label in self.asked[split] if label == "no"]

    @property
    def absent(self):
        return {name for split in SPLITS for name in self.negatives(split)}

    def shown(self, tables):
        """Objects that stand before a chosen negative in its list, and were not asked about before, must be there."""
        shown = set(self.positives)
        for split in ("popular", "adversarial"):
            asked = []
            for positive, negative in zip(self.positives, self.negatives(split), strict=True):
                asked.append(positive)
                candidates = tables.popular if split == "popular" else tables.co_occurring[positive]
                if negative in candidates:
                    shown.update(set(candidates[: candidates.index(negative)]) - set(asked))
                asked.append(negative)
        return shown


@pytest.fixture(scope="module")
def official(test_data):
    """The official images, and the official tables of frequency and co-occurrence."""
    images = {}
    for split in SPLITS:
        for line in (test_data / "pope" / "coco" / f"coco_pope_{split}.json").read_text().splitlines():
            row = json.loads(line)
            name = row["text"].removeprefix("Is there ").removesuffix(" in the image?").split(" ", 1)[1]
            image = images.setdefault(row["image"], OfficialImage(row["image"]))
            image.asked.setdefault(split, []).append((name, row["label"]))
            image.texts.append((name, row["text"]))
    frequency = json.loads((test_data / "pope" / "tables" / "coco_ground_truth_objects.json").read_text())
    co_occurring = json.loads((test_data / "pope" / "tables" / "coco_co_occur.json").read_text())
    popular = sorted(frequency, key=lambda name: -frequency[name])
    return list(images.values()), ObjectTables(frequency=frequency, popular=popular, co_occurring=co_occurring)


def test_official_files_have_our_form(official):
    images, _ = official
    assert len(images) == 500
    for image in images:
        for split in SPLITS:
            assert [label for _, label in image.asked[split]] == ["yes", "no"] * 3
            assert [name for name, label in image.asked[split] if label == "yes"] == image.positives
            assert len({name for name, _ in image.asked[split]}) == 6
    different = [text for image in images for name, text in image.texts if text != question(name)]
    assert different == ["Is there an traffic light in the image?"]  # a slip of the official file, of 9,000 questions


def test_what_official_negatives_imply_fits_the_official_frequencies(official):
    """The object sets are not published; but each negative says what is in the image, and nothing may contradict."""
    images, tables = official
    shown = {image.name: image.shown(tables) for image in images}
    assert not [image.name for image in images if shown[image.name] & image.absent]
    counted = Counter(name for objects in shown.values() for name in objects)
    assert all(counted[name] <= count for name, count in tables.frequency.items())
    # Whether an image shows one of the four most frequent objects is decided by its three popular negatives.
    for name in ("person", "dining table", "car", "chair"):
        assert counted[name] == tables.frequency[name]


def test_official_popular_and_adversarial_negatives(official):
    images, tables = official
    reproduced = Counter()
    for image in images:
        objects = [*image.positives, *sorted(image.shown(tables) - set(image.positives))]
        for split, task in (("popular", PopePopular()), ("adversarial", PopeAdversarial())):
            asked = []
            for positive, negative in zip(image.positives, image.negatives(split), strict=True):
                asked.append(positive)
                if split == "popular" or negative in tables.co_occurring[positive]:
                    found = task.negative(positive, objects, asked, tables, Forbidden())
                    reproduced[split] += found == negative
                asked.append(negative)
    # The other three are random: they never occur together with the positive.
    assert reproduced == {"popular": 1500, "adversarial": 1497}


def test_official_random_negatives_are_what_ours_can_be(official):
    images, tables = official
    for image in images:
        assert not set(image.negatives("random")) & image.shown(tables)
        assert set(image.negatives("random")) <= set(tables.frequency)


def some_data(folder, images=60, seed=0):
    generator = random.Random(seed)
    objects = {}
    for number in range(1, images + 1):
        count = generator.randint(1, 6)
        weights = [1 / (1 + rank) for rank in range(len(NAMES))]
        objects[number] = generator.choices(NAMES, weights, k=count)
    return CocoData.open(write_coco(folder, "val", objects))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return some_data(tmp_path_factory.mktemp("coco"))


ALL = (PopeRandom, PopePopular, PopeAdversarial)


@pytest.mark.parametrize("task", ALL)
def test_questions(data, task):
    samples = task().samples(data, 0)
    eligible = {image.id for image in data.images if len(data.objects(image.id)) >= 3}
    ids = list(dict.fromkeys(int(sample.id.split("-")[0]) for sample in samples))
    assert set(ids) == eligible
    assert len(samples) == 6 * len(eligible)
    assert len({sample.id for sample in samples}) == len(samples)
    for start, number in zip(range(0, len(samples), 6), ids, strict=True):
        six = samples[start : start + 6]
        assert [sample.id for sample in six] == [f"{number}-{k}" for k in range(1, 7)]
        assert [sample.target for sample in six] == ["yes", "no"] * 3
        assert len({sample.prompt for sample in six}) == 6
        present = data.objects(number)
        assert [sample.prompt for sample in six[::2]] == [question(name) for name in present[:3]]
        assert not {sample.prompt for sample in six[1::2]} & {question(name) for name in present}
        assert {sample.image.stem for sample in six} == {f"{number:012d}"}


def test_splits_ask_about_the_same_images_and_positives(data):
    runs = [task().samples(data, 3) for task in ALL]
    for six in zip(*(run[::2] for run in runs), strict=True):
        assert len({(sample.id, sample.prompt) for sample in six}) == 1
    assert len({tuple(sample.prompt for sample in run) for run in runs}) == 3


@pytest.mark.parametrize("task", ALL)
def test_questions_are_fixed_by_the_seed_alone(data, task):
    random.seed(1)
    state = random.getstate()
    one = task().samples(data, 0)
    assert random.getstate() == state
    random.seed(2)
    assert task().samples(data, 0) == one
    assert task().samples(data, 1) != one


def reference(data, split, seed):
    """The official construction, written out as its script has it, with a seed."""
    rng = random.Random(seed)
    images = [(image, data.objects(image.id)) for image in data.images]
    images = [row for row in images if len(row[1]) >= 3]
    images = rng.sample(images, min(500, len(images)))
    gt, co = {}, {}
    for _, objects in images:
        for o in objects:
            gt[o] = gt.get(o, 0) + 1
            co.setdefault(o, {})
            for other in objects:
                if other != o:
                    co[o][other] = co[o].get(other, 0) + 1
    by_frequency = [o for o, _ in sorted(gt.items(), key=lambda item: item[1], reverse=True)]
    asked = []
    for image, objects in images:
        history = []
        for positive in objects[:3]:
            history.append(positive)
            asked.append((image.path, question(positive), "yes"))
            candidates = {
                "random": [],
                "popular": by_frequency,
                "adversarial": [o for o, _ in sorted(co[positive].items(), key=lambda item: item[1], reverse=True)],
            }[split]
            for chosen in candidates:
                if chosen not in history and chosen not in objects:
                    break
            else:
                while True:
                    chosen = rng.choice(list(gt))
                    if chosen not in history and chosen not in objects:
                        break
            history.append(chosen)
            asked.append((image.path, question(chosen), "no"))
    return asked


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("split", "task"), list(zip(SPLITS, ALL, strict=True)))
def test_construction_is_the_official_one(data, split, task, seed):
    samples = task().samples(data, seed)
    assert [(s.image, s.prompt, s.target) for s in samples] == reference(data, split, seed)


def test_at_most_500_images(tmp_path):
    objects = {number: NAMES[number % 9 : number % 9 + 3] for number in range(1, 621)}
    samples = PopePopular().samples(CocoData.open(write_coco(tmp_path, "val", objects)), 0)
    assert len(samples) == 3000
    assert len({sample.image for sample in samples}) == 500


def test_ties_keep_the_order_of_first_occurrence():
    tables = object_tables([["b", "a"], ["a", "c"], ["c", "b"], ["d", "b"]])
    assert tables.frequency == {"b": 3, "a": 2, "c": 2, "d": 1}
    assert tables.popular == ["b", "a", "c", "d"]
    assert tables.co_occurring["b"] == ["a", "c", "d"]


def test_too_few_objects_are_an_error_and_no_endless_loop(tmp_path):
    data = CocoData.open(write_coco(tmp_path, "val", {1: ["cat", "dog", "cup"], 2: ["cat", "dog", "bus", "car"]}))
    for task in ALL:
        with pytest.raises(ConfigError, match="no object is left to ask about"):
            task().samples(data, 0)


@pytest.mark.parametrize(
    ("name", "article"), [("dog", "a"), ("umbrella", "an"), ("orange", "an"), ("hair drier", "a"), ("oven", "an")]
)
def test_article(name, article):
    assert question(name) == f"Is there {article} {name} in the image?"


# Scores


def record(number, target, output, image=None, margin=None, error=None):
    return SampleRecord(
        id=str(number), image=image or str(number), prompt="?", target=target, output=output, margin=margin, error=error
    )


def test_grades():
    task = PopeRandom()
    assert task.grade("yes", "Yes, a dog.")[:2] == ("yes", "tp")
    assert task.grade("no", "")[:2] == ("yes", "fp")
    assert task.grade("yes", "There is no dog")[:2] == ("no", "fn")
    assert task.grade("no", "no")[:2] == ("no", "tn")
    with pytest.raises(RecordError, match="got 'maybe'"):
        task.grade("maybe", "no")


def test_scores_by_hand():
    outputs = [("yes", "Yes"), ("yes", "No"), ("yes", "yes."), ("no", "No"), ("no", "Perhaps"), ("no", "I see a dog")]
    margins = [2.0, -1.0, 1.0, -2.0, 0.0, 1.0]
    records = [record(i, *pair, margin=m) for i, (pair, m) in enumerate(zip(outputs, margins, strict=True))]
    scores = PopeRandom().score(records)
    assert scores.counts == {"n": 6, "tp": 2, "fp": 2, "tn": 1, "fn": 1, "unparsed": 0, "unparsed_strict": 2}
    assert scores.metrics == pytest.approx(
        {
            "accuracy": 3 / 6,
            "precision": 2 / 4,
            "recall": 2 / 3,
            "f1": 4 / 7,
            "yes_ratio": 4 / 6,
            "hallucination_rate": 2 / 3,
            "auc": (3 + 1 + 2.5) / 9,
        }
    )
    assert scores.reasons == {}
    assert set(scores.intervals) == set(scores.metrics)
    for name, (low, high) in scores.intervals.items():
        assert 0 <= low <= scores.metrics[name] <= high <= 1


def test_scores_come_from_output_and_target_and_not_from_stale_fields():
    stale = SampleRecord(id="1", image="1", prompt="?", target="no", output="Yes", answer="no", outcome="tn")
    assert PopeRandom().score([stale, record(2, "yes", "Yes")]).counts["fp"] == 1
    assert stale.outcome == "tn"


def test_undefined_metrics_are_null_with_a_reason():
    scores = PopeRandom().score([record(i, "yes", "no") for i in range(4)])
    for name in ("precision", "f1", "hallucination_rate", "auc"):
        assert scores.metrics[name] is None
        assert scores.reasons[name]
        assert name not in scores.intervals
    assert scores.metrics["recall"] == 0.0
    assert "4 of 4 answers have no margin" in scores.reasons["auc"]
    empty = PopeRandom().score([])
    assert set(empty.metrics.values()) == {None}
    assert set(empty.reasons) == set(empty.metrics)
    one_class = PopeRandom().score([record(i, "yes", "no", margin=1.0) for i in range(4)])
    assert one_class.reasons["auc"].startswith("no questions with the answer yes, or none")


OUTPUTS = ["yes", "Yes.", "no", "No way", "maybe", "yes and no", "know"]


def scored(rule, outputs=OUTPUTS):
    """Each output once to a question with the answer yes, once to one with the answer no."""
    return score_answers([record(f"{i}-{t}", t, o) for i, o in enumerate(outputs) for t in ("yes", "no")], rule)


@pytest.mark.parametrize(
    ("rule", "counts", "rates"),
    [
        # Counts tp fp tn fn unparsed, rates accuracy precision recall f1 yes_ratio hallucination_rate.
        ("pope", (4, 4, 3, 3, 0), (7 / 14, 4 / 8, 4 / 7, 8 / 15, 8 / 14, 4 / 7)),
        # "yes", "no", of ten others nothing; the yes ratio is that of the questions.
        ("lmms-eval", (1, 1, 1, 1, 10), (2 / 14, 1 / 2, 1 / 2, 1 / 2, 7 / 14, 1 / 2)),
        # What is unparsed ("maybe", "yes and no", "know") stands below the line of recall.
        ("vlmevalkit", (2, 2, 2, 2, 6), (4 / 14, 2 / 4, 2 / 7, 4 / (4 + 2 + 5), 4 / 14, 2 / 7)),
        ("strict", (3, 3, 2, 2, 4), (5 / 14, 3 / 6, 3 / 5, 6 / 11, 6 / 14, 3 / 5)),
        # "yes and no" and "know" hold the label "no", "yes and no" also the label "yes".
        ("vcd", (3, 3, 4, 4, 0), (7 / 14, 3 / 6, 3 / 7, 6 / 13, 6 / 14, 3 / 7)),
    ],
)
def test_each_rule_aggregates_in_its_own_way(rule, counts, rates):
    scores = scored(rule)
    assert tuple(scores.counts[name] for name in ("tp", "fp", "tn", "fn", "unparsed")) == counts
    assert sum(counts) == scores.counts["n"] == 14
    names = ("accuracy", "precision", "recall", "f1", "yes_ratio", "hallucination_rate")
    assert [scores.metrics[name] for name in names] == pytest.approx(rates, abs=1e-12)
    assert set(AGGREGATIONS) < set(RULES)


def test_what_vlmevalkit_cannot_read_stands_below_the_line_of_its_own_question():
    said = [("yes", "maybe"), ("no", "maybe"), ("no", "perhaps"), ("no", "yes"), ("yes", "yes")]
    records = [record(number, *pair) for number, pair in enumerate(said)]
    metrics = score_answers(records, "vlmevalkit").metrics
    assert (metrics["recall"], metrics["hallucination_rate"]) == (1 / 2, 1 / 3)
    metrics = score_answers(records, "lmms-eval").metrics
    assert (metrics["recall"], metrics["hallucination_rate"], metrics["yes_ratio"]) == (1.0, 1.0, 2 / 5)


@pytest.mark.parametrize(("rule", "f1"), [("pope", None), ("vcd", None), ("lmms-eval", 0.0), ("vlmevalkit", 0.0)])
def test_a_model_that_always_says_no(rule, f1):
    """F1 is 0 where it is made of counts, and undefined where it is made of a precision of 0/0."""
    scores = scored(rule, ["no"] * 3)
    assert scores.metrics["precision"] is None
    assert scores.reasons["precision"] == "no answer was yes"
    assert scores.metrics["f1"] == f1
    assert ("0/0" in scores.reasons.get("f1", "")) == (f1 is None)
    assert ("f1" in scores.intervals) == (f1 is not None)
    assert scores.metrics["recall"] == scores.metrics["hallucination_rate"] == 0.0
    assert scores.metrics["accuracy"] == 0.5


def test_a_failed_sample_is_unparsed_and_no_yes():
    """By the official rule an empty output is a yes; that of a crash is no answer at all."""
    scores = PopeRandom().score([record(1, "no", "", error="out of memory"), record(2, "no", "no")])
    assert scores.counts == {"n": 2, "tp": 0, "fp": 0, "tn": 1, "fn": 0, "unparsed": 1, "unparsed_strict": 1}
    assert scores.metrics["accuracy"] == 0.5


def test_scores_do_not_depend_on_the_order_of_records():
    generator = random.Random(0)
    records = [
        record(i, "no" if i % 2 else "yes", generator.choice(("Yes", "No")), str(i // 6), generator.gauss(0, 1))
        for i in range(120)
    ]
    one, other = PopeRandom().score(records), PopeRandom().score(records[::-1])
    assert one.counts == other.counts
    assert one.metrics == pytest.approx(other.metrics, abs=1e-12)
    for name, interval in one.intervals.items():
        assert other.intervals[name] == pytest.approx(interval, abs=1e-12)


def test_two_runs_are_compared_by_what_they_said():
    before = [record(i, "no", "Yes", margin=1.0) for i in range(8)]
    after = [record(i, "no", "No" if i < 6 else "Yes", margin=-1.0) for i in range(8)]
    found = PopeRandom().compare(before, after)
    assert (found.changed, found.wrong_to_right, found.right_to_wrong) == (6, 6, 0)
    assert found.mcnemar_p == pytest.approx(2 / 2**6)
    assert found.differences["hallucination_rate"].value == pytest.approx(-0.75)


# The table of tasks


def test_every_task_of_the_table_says_what_it_is():
    for name in TASKS:
        task = load_task(name)
        assert task.name == name
        assert task.kind in ("yes_no", "caption")
        assert task.version >= 1
        assert task.max_new_tokens >= 1
        for text in (task.paper, task.checked_against, task.rule):
            assert text
    for members in GROUPS.values():
        assert set(members) <= set(TASKS)


def test_names_of_tasks():
    assert expand_tasks(["pope", "chair", "pope_popular"]) == [
        "pope_random",
        "pope_popular",
        "pope_adversarial",
        "chair",
    ]
    assert expand_tasks(["chair", "pope_popular", "pope"])[:2] == ["chair", "pope_popular"]
    assert expand_tasks([]) == []
    with pytest.raises(UnknownTaskError, match=r"got 'chiar'.*Did you mean 'chair'.*Available: pope_random"):
        expand_tasks(["chiar"])
    for name in ("pope", "", "nothing like it"):
        with pytest.raises(UnknownTaskError, match="Available"):
            load_task(name)
    assert issubclass(UnknownTaskError, LookupError)
