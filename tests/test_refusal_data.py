"""Data of refusal: a prompt gives nothing away, absence is verified, and halves are what they say."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import scr
from benchmarks import refusal_data
from benchmarks.lab import adapt, data_folder
from benchmarks.lab.world.data import write_coco
from benchmarks.lab.world.language import article
from benchmarks.stats import wilson
from benchmarks.tasks.coco import CocoData
from benchmarks.tasks.known import known_images, place_of
from scr.adapters import DENIAL, TEMPLATES, KnownImage, RefusalRow, read_rows, refusal_rows, split_images

COUNT = 240


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    write_coco(folder, "train", COUNT)
    return CocoData.open(folder, "train")


@pytest.fixture(scope="module")
def known(lab):
    return known_images(lab, place_of)


def test_both_halves_ask_the_same(known):
    rows = refusal_rows(known, 150)
    real, phantom = ([row for row in rows if row.present is there] for there in (True, False))
    assert len(real) == len(phantom) == 150
    assert Counter(row.question for row in real) == Counter(row.question for row in phantom)
    assert Counter(row.object for row in real) == Counter(row.object for row in phantom)
    shares = Counter(TEMPLATES.index(_template(row)) for row in rows)
    assert max(shares.values()) - min(shares.values()) <= 4


def test_every_second_absent_object_is_one_that_often_accompanies(known):
    rows = [row for row in refusal_rows(known, 150) if not row.present]
    halves = Counter(row.half for row in rows)
    assert halves["co_occurring"] == pytest.approx(75, abs=5)
    of = {one.image: one for one in known}
    assert all(row.object in of[row.image].beside for row in rows if row.half == "co_occurring")
    # With every template: else a question would tell which half its object is of.
    templates = Counter((row.half, _template(row)) for row in rows)
    assert len(templates) == 2 * len(TEMPLATES)
    assert min(templates.values()) > 10


def test_absence_is_verified_and_presence_true(lab, known):
    captions = {image.path: " ".join(lab.captions(image.id)) for image in lab.images}
    objects = {image.path: lab.objects(image.id) for image in lab.images}
    for row in refusal_rows(known, 150):
        assert (row.object in objects[row.image]) == row.present
        if row.present:
            assert row.answer.startswith(f"I see the {row.object} in the ")
        else:
            # Captions of the train split sometimes name what is not there: that is no verified absence.
            assert not re.search(rf"\b{row.object}\b", captions[row.image])
            article = "an" if row.object[0] in "aeiou" else "a"
            assert row.answer == DENIAL.format(object=row.object, article=article)


def test_a_bag_of_words_cannot_tell(known):
    """A classifier of prompts, fitted on the training rows, asked about held-out images."""
    trained, held_out = split_images(known, 0.3)
    assert not {one.image for one in trained} & {one.image for one in held_out}
    rows, others = refusal_rows(trained, 120), refusal_rows(held_out, 60)
    words = sorted({word for row in rows for word in row.question.split()})

    def features(some: list[RefusalRow]) -> np.ndarray:
        return np.array([[word in row.question.split() for word in words] for row in some], dtype=float)

    # Naive Bayes, with a flat prior: 1 is added to every count.
    present = np.array([row.present for row in rows])
    halves = [features(rows)[present == there] for there in (0, 1)]
    likely = [np.log((half.sum(axis=0) + 1) / (len(half) + 2)) for half in halves]
    said = features(others) @ (likely[1] - likely[0]) > 0
    right = int((said == [row.present for row in others]).sum())
    interval = wilson(right, len(others))
    assert interval.low <= 0.5 <= interval.high


def test_the_same_seed_gives_the_same_rows(known):
    assert refusal_rows(known, 40, 1) == refusal_rows(known, 40, 1) != refusal_rows(known, 40, 2)


def test_no_image_is_asked_about_too_often(known):
    rows = refusal_rows(known, 10_000, per_image=2)
    assert max(Counter(row.image for row in rows).values()) == 2
    assert len({(row.image, row.object) for row in rows}) == len(rows)


def test_without_a_pair():
    lonely = KnownImage(image=Path("1.png"), present={"dog": "I see the dog in this image."}, absent=["cat"], beside=[])
    with pytest.raises(scr.ConfigError, match="no pair of questions: got 1 images with 1 objects"):
        refusal_rows([lonely], 3)


def test_the_command_writes_what_training_reads(lab, tmp_path, capsys):
    output = tmp_path / "rows" / "refusal.jsonl"
    arguments = ["--data-dir", str(lab.folder), "--pairs", "20", "--output", str(output)]
    assert refusal_data.main(arguments) == 0
    assert "40 rows, 10 of 20 absent objects co-occur" in capsys.readouterr().out
    rows, held_out = read_rows(output), read_rows(tmp_path / "rows" / "refusal.held_out.jsonl")
    assert len(rows) == 40
    assert not {row.image for row in rows} & {row.image for row in held_out}
    assert set(json.loads(output.read_text().splitlines()[0])) == {
        *("image", "question", "answer", "object", "present", "half")
    }
    assert refusal_data.main(["--data-dir", str(tmp_path), "--output", str(output)]) == 2
    assert "error: no data set" in capsys.readouterr().err
    assert refusal_data.main(["--data-dir", str(lab.folder)]) == 2


def test_places_in_words(lab):
    image = lab.images[0]
    name = lab.objects(image.id)[0]
    x, y, width, height = max((o for o in lab.instances(image.id) if o.name == name), key=lambda o: o.area).box
    across, down = lab.size(image.id)
    column = ["left", "middle", "right"][int(3 * (x + width / 2) / across)]
    row = ["upper ", "", "lower "][int(3 * (y + height / 2) / down)]
    assert place_of(lab, image.id, name) == f"I see the {name} in the {row}{column} of this image."
    assert place_of(lab, image.id, "unicorn") == "I see the unicorn in this image."


def test_the_labs_rows_are_made_of_its_words(lab):
    from benchmarks.asking.models import find_model, load_processor

    tokenizer = load_processor(find_model("lab/llava")).tokenizer
    rows = [(row.question, row.answer) for row in (*adapt.refusals(lab, 60), *adapt.seed_rows(lab))]
    unknown = [text for pair in rows for text in pair if tokenizer.unk_token_id in tokenizer(text)["input_ids"]]
    assert unknown == []
    questions = Counter(answer for question, answer in rows if question.startswith("Is there"))
    assert set(questions) == {"Yes", "No"}


def test_a_language_model_learns_to_say_it_in_the_first_person():
    pictures = CocoData.open(data_folder("train", 12, "lab/smol"), "train")
    rows = adapt.refusals(pictures, 6, small=False)
    assert [row.answer for row in rows if not row.present] == [
        f"I do not see {article(row.object)} {row.object} in this image." for row in rows if not row.present
    ]
    assert all(row.answer.startswith("I see the ") for row in rows if row.present)
    assert len(rows) == 12


def _template(row: RefusalRow) -> str:
    return next(text for text in TEMPLATES if text.format(object=row.object) == row.question)
