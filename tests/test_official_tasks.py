"""Tasks on benchmarks' own files: the official questions, the scores of `benchmarks.score`, runs from end to end."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nltk
import pytest
from official_files import write_amber, write_hallusionbench, write_mme, write_mmvet

from benchmarks.asking.answering import Answerer, Question
from benchmarks.asking.models import find_model, load_model
from benchmarks.records import RecordError, SampleRecord
from benchmarks.run import main
from benchmarks.running.plan import RunConfig, build_plan
from benchmarks.running.rescoring import rescore
from benchmarks.score import main as score_main
from benchmarks.store import find_runs
from benchmarks.tasks import expand_tasks, load_task
from benchmarks.tasks.amber import task as amber_questions
from benchmarks.tasks.amber.words import from_table
from benchmarks.tasks.base import Sample, Task
from scr import ConfigError

pytestmark = pytest.mark.usefixtures("one_thread")

WRITERS: dict[str, Callable[[Path], Path]] = {
    "mme": write_mme,
    "amber_attribute": write_amber,
    "amber_existence": write_amber,
    "amber_relation": write_amber,
    "amber_generative_exact": write_amber,
    "hallusionbench": write_hallusionbench,
    "mmvet": write_mmvet,
}
SAYINGS = ("Yes", "No", "No", "no", "Yes.", "perhaps", "No, it is not so", "")
SENTENCES = ("A dog and a puppy on the grass.", "A cat with a ball.", "The sky.", "A toy, a person and a dog.")


@pytest.fixture
def words(test_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NLTK's data, and no words remembered from elsewhere."""
    monkeypatch.setattr(nltk.data, "path", [str(test_data / "nltk")])
    amber_questions._nouns.cache_clear()
    amber_questions._similarity.cache_clear()


def asked(name: str, folder: Path) -> list[Sample]:
    task = load_task(name)
    return task.samples(task.open_data(folder, None), 0)


def answered(name: str, folder: Path, says: tuple[str, ...] = SAYINGS, seed: int = 0) -> list[SampleRecord]:
    draw = random.Random(seed)
    return [
        SampleRecord(id=one.id, image=one.unit_name, prompt=one.prompt, target=one.target, output=draw.choice(says))
        for one in asked(name, folder)
    ]


def scored(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert score_main([*map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def check_equal(task: Task, records: list[SampleRecord], expected: dict[str, Any]) -> None:
    """The task's scores are those of the scorer, its table those of both, whatever the order of the records."""
    scores, table = task.score(records), task.table(records)
    assert scores.metrics
    for name, value in scores.metrics.items():
        assert expected["metrics"][name] == (None if value is None else pytest.approx(value, abs=1e-12, rel=1e-12)), (
            name
        )
        assert scores.reasons.get(name) == expected["reasons"].get(name)
        assert (value is None) == (name in scores.reasons)
        if name in scores.intervals and "mme" not in task.name:  # MME's scorer names images by the file alone
            assert scores.intervals[name] == pytest.approx(expected["intervals"][name], abs=1e-12)
    for name, above, below in zip(table.metrics, table.numerators.sum(0), table.denominators.sum(0), strict=True):
        value = scores.metrics[name]
        assert (None if below == 0 else above / below) == (None if value is None else pytest.approx(value, abs=1e-9))
    shuffled = random.Random(1).sample(records, len(records))
    again = task.score(shuffled)
    assert again.metrics == pytest.approx(scores.metrics, nan_ok=True)
    assert again.counts == scores.counts


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text(json.dumps(rows))
    return path


def as_mme(folder: Path, records: list[SampleRecord]) -> Path:
    """The result files of MME's tool."""
    folder.mkdir()
    for record in records:
        task, _, image = record.image.partition("/")
        with (folder / f"{task}.txt").open("a") as file:
            file.write("\t".join([image, record.prompt, record.target.capitalize(), record.output]) + "\n")
    return folder


def as_amber(path: Path, records: list[SampleRecord]) -> Path:
    return write_rows(path, [{"id": int(one.id.rsplit("-", 1)[1]), "response": one.output} for one in records])


def as_hallusionbench(path: Path, folder: Path, records: list[SampleRecord]) -> Path:
    outputs = {record.id: record.output for record in records}
    rows = json.loads((folder / "HallusionBench.json").read_text())
    names = ("category", "subcategory", "set_id", "figure_id", "question_id", "visual_input")
    return write_rows(
        path, [{**row, "model_prediction": outputs["/".join(row[name] for name in names)]} for row in rows]
    )


def test_mme_asks_the_release(tmp_path: Path) -> None:
    samples = asked("mme", write_mme(tmp_path))
    assert [one.id for one in samples[:4]] == [
        "existence/0001.jpg-1",
        "existence/0001.jpg-2",
        "existence/0002.png-1",
        "existence/0002.png-2",
    ]
    assert [one.id for one in samples[6:8]] == ["posters/0001.jpg-1", "posters/0001.jpg-2"]
    assert samples[7].prompt == "Is it posters 1b? Please answer yes or no."
    assert [one.target for one in samples[:2]] == ["yes", "no"]
    assert samples[6].image == tmp_path / "posters" / "images" / "0001.jpg"
    assert len({one.unit_name for one in samples}) == 6


def test_mme_scores_are_the_scorers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = answered("mme", write_mme(tmp_path / "data", 20))
    expected = scored(capsys, "mme", "--results", as_mme(tmp_path / "results", records), "--allow-missing")
    check_equal(load_task("mme"), records, expected)
    scores = load_task("mme").score(records)
    assert scores.intervals == expected["intervals"]
    assert scores.counts.items() <= expected["counts"].items()
    assert scores.units == expected["units"]
    assert scores.reasons["code_reasoning"] == "no answers to the task code_reasoning"
    assert scores.metrics["perception"] is None


def test_sums_of_mme_are_compared(tmp_path: Path) -> None:
    task = load_task("mme")
    pairs = {"existence": 4, "count": 1, "position": 2, "color": 3}

    def records(right: float, skip: int = 0) -> list[SampleRecord]:
        draw, rows = random.Random(right), []
        for name, count in pairs.items():
            for image in range(count):
                for number, target in ((1, "yes"), (2, "no")):
                    said = target if draw.random() < right else "hm"
                    rows.append(
                        SampleRecord(
                            id=f"{name}/{image}.jpg-{number}",
                            image=f"{name}/{image}.jpg",
                            prompt="?",
                            target=target,
                            output=said,
                        )
                    )
        return rows[skip:]

    before, after = records(0.4), records(0.9)
    found = task.compare(before, after)
    for name in ("hallucination_subset", "existence", "color_acc_plus"):
        value = task.score(after).metrics[name] - task.score(before).metrics[name]
        assert found.differences[name].value == pytest.approx(value)
        assert found.differences[name].interval is not None
    assert found.reasons["perception"] == "undefined for the baseline"
    assert found.unpaired == 0
    # Sums weigh tasks by what both runs have.
    part = task.compare(before, after[2:])
    expected = (
        task.score(after[2:]).metrics["hallucination_subset"] - task.score(before[2:]).metrics["hallucination_subset"]
    )
    assert part.differences["hallucination_subset"].value == pytest.approx(expected)
    assert part.unpaired == 2
    with pytest.raises(ValueError, match="share no sample"):
        task.compare(before[:2], after[2:])
    lone = task.score(before[:1])
    assert lone.metrics["existence"] is None
    with pytest.raises(RecordError, match="wrong id: got 'taste/"):
        task.score([dataclasses.replace(before[0], id="taste/1.jpg-1")])


@pytest.mark.parametrize("name", ["amber_attribute", "amber_existence", "amber_relation"])
def test_amber_questions(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_amber(tmp_path / "data", 12)
    records = answered(name, folder)
    responses = as_amber(tmp_path / "answers.json", records)
    check_equal(
        load_task(name), records, scored(capsys, "amber", "--data", folder, "--responses", responses, "--rule", "plain")
    )
    scores = load_task(name).score(records)
    assert scores.counts["n"] == len(records)
    assert set(scores.metrics) == {
        f"{rate}_{suffix}"
        for rate in ("accuracy", "precision", "recall", "f1")
        for suffix in {
            "amber_attribute": ("attribute", "attribute_state", "attribute_number", "attribute_action"),
            "amber_existence": ("existence",),
            "amber_relation": ("relation",),
        }[name]
    }
    better = [dataclasses.replace(record, output=record.target.capitalize()) for record in records]
    first = f"accuracy_{name.removeprefix('amber_')}"
    assert load_task(name).compare(records, better).differences[first].value == pytest.approx(1 - scores.metrics[first])
    with pytest.raises(RecordError, match="wrong id"):
        load_task(name).score([dataclasses.replace(records[0], id="AMBER_1-taste-7")])


@pytest.mark.usefixtures("words")
@pytest.mark.parametrize("rule", ["exact", "spacy"])
def test_amber_captions(
    rule: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, similarity = write_amber(tmp_path / "data", 12), "exact"
    name = "amber_generative" + ("_exact" if rule == "exact" else "")
    if rule == "spacy":
        # The vectors are not to be had here; a table stands for them.
        similarity = str(tmp_path / "table.json")
        table = {"cat|dog": 0.9, "ball|toy": 0.85}
        Path(similarity).write_text(json.dumps({"table": table}))
        monkeypatch.setattr(amber_questions, "from_spacy", lambda: from_table(table))
    records = answered(name, folder, SENTENCES)
    responses = as_amber(tmp_path / "answers.json", records)
    options = ("--data", folder, "--responses", responses, "--rule", "plain", "--similarity", similarity)
    check_equal(load_task(name), records, scored(capsys, "amber", *options))
    task = load_task(name)
    assert set(task.score(records).metrics) == {"chair", "cover", "hal", "cog"}
    failed = dataclasses.replace(records[0], error="out of memory")
    assert task.score([failed, *records[1:]]).counts["failed"] == 1
    assert task.compare([failed, *records[1:]], records).unpaired == 1
    with pytest.raises(RecordError, match="expected lists of words"):
        task.score([dataclasses.replace(records[0], target={"truth": []})])


def test_amber_says_what_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*given: str) -> None:
        raise amber_questions.WordDataError("spaCy's vectors are not installed")

    folder = write_amber(tmp_path)
    amber_questions._nouns.cache_clear()
    amber_questions._similarity.cache_clear()
    monkeypatch.setattr(amber_questions, "from_spacy", missing)
    with pytest.raises(ConfigError, match="not installed, or choose the task amber_generative_exact"):
        asked("amber_generative", folder)
    monkeypatch.setattr(amber_questions, "placed_nouns", missing)
    with pytest.raises(ConfigError, match="not installed"):
        asked("amber_generative_exact", folder)


def test_hallusionbench_scores_are_the_scorers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_hallusionbench(tmp_path)
    task = load_task("hallusionbench")
    for seed in range(5):
        records = answered("hallusionbench", folder, seed=seed)
        answers = as_hallusionbench(tmp_path / "answers.json", folder, records)
        expected = scored(
            capsys,
            *("hallusionbench", "--questions", folder / "HallusionBench.json"),
            *("--answers", answers, "--rule", "words"),
        )
        check_equal(task, records, expected)
        assert task.score(records).counts.items() <= expected["counts"].items()
    other = answered("hallusionbench", folder, seed=9)
    found = task.compare(records, other)
    for name, value in task.score(other).metrics.items():
        before = task.score(records).metrics[name]
        assert found.differences[name].value == pytest.approx(value - before)
    assert found.images == 3
    # Not to know is right without a figure, to fail is not.
    silent = [dataclasses.replace(record, output="") for record in records]
    assert task.score(silent).metrics["a_acc"] == 4 / len(records)
    assert task.score([dataclasses.replace(one, error="x") for one in silent]).metrics["a_acc"] == 0
    with pytest.raises(RecordError, match="no question of HallusionBench"):
        task.score([dataclasses.replace(records[0], id="VS/chart/0")])


def test_mmvet_records_answers_to_be_graded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_mmvet(tmp_path / "data")
    task, records = load_task("mmvet"), answered("mmvet", folder, ("It.", "Two"))
    assert [record.id for record in records] == ["v1_0", "v1_2", "v1_1"]
    scores = task.score(records)
    assert set(scores.metrics.values()) == {None}
    assert "benchmarks.score mmvet" in scores.reasons["total"]
    assert (scores.counts["n"], scores.counts["n_rec"], scores.counts["n_math"]) == (3, 2, 1)
    samples = tmp_path / "samples.jsonl"
    samples.write_text("".join(json.dumps(record.to_dict()) + "\n" for record in records))
    grades = tmp_path / "grades.json"
    grades.write_text(json.dumps({"v1_0": 1.0, "v1_1": 0.5, "v1_2": 0.0}))
    command = ("mmvet", "--data", folder / "mm-vet.json", "--predictions", samples)
    assert scored(capsys, *command, "--export", tmp_path / "to_grade.jsonl")["metrics"]["total"] is None
    assert (
        "Answer: " + records[0].output
        in json.loads((tmp_path / "to_grade.jsonl").read_text().splitlines()[0])["prompt"]
    )
    assert scored(capsys, *command, "--grades", grades)["metrics"]["total"] == 0.5
    comparison = task.compare(records, [dataclasses.replace(records[0], output="Other."), *records[1:]])
    assert (comparison.changed, comparison.differences) == (1, {})
    with pytest.raises(RecordError, match="a list as capability"):
        task.score([dataclasses.replace(records[0], target="it")])


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.usefixtures("words")
def test_samples_are_unique_grouped_and_not_drawn(name: str, tmp_path: Path) -> None:
    folder = WRITERS[name](tmp_path)
    task, samples = load_task(name), asked(name, folder)
    assert task.samples(task.open_data(folder, None), 7) == samples
    assert len({one.id for one in samples}) == len(samples) > 2
    units = [one.unit_key for one in samples]
    assert len(set(units)) == sum(one != before for one, before in zip(units, [None, *units], strict=False))
    assert len({one.unit_name for one in samples}) == len(set(units))
    assert all(one.image is None or one.image.is_file() for one in samples)


@pytest.mark.usefixtures("words")
def test_the_digest_is_that_of_the_questions(tmp_path: Path) -> None:
    for name, path in {
        "mme": "existence/0001.txt",
        "amber_existence": "relation.json",
        "hallusionbench": "HallusionBench.json",
        "mmvet": "mm-vet.json",
    }.items():
        task, folder = load_task(name), WRITERS[name](tmp_path / name)
        before = task.open_data(folder, None).sha256
        shutil.copytree(folder, tmp_path / "copy" / name)
        assert task.open_data(tmp_path / "copy" / name, None).sha256 == before
        (folder / path).write_text((folder / path).read_text() + "\n")
        assert task.open_data(folder, None).sha256 != before


@pytest.mark.parametrize(
    ("name", "missing", "message"),
    [
        ("mme", "existence/0001.txt existence/0002.txt existence/0003.txt posters", "no data: got no .*existence"),
        ("mme", "existence/0002.png", "has no image: got 0 of the name 0002"),
        ("mme", "posters/images", "has no image"),
        ("amber_relation", "query/query_all.json", "got no file .*query_all.json; expected AMBER's data folder"),
        ("amber_relation", "safe_words.txt", "got no file .*safe_words.txt"),
        ("amber_relation", "image", r"images are missing: got no .*AMBER_1.jpg \(3 of 3"),
        ("hallusionbench", "HallusionBench.json", r"got no file .*tianyi-lab/HallusionBench"),
        ("hallusionbench", "hallusion_bench/VD/figure/0_1.png", r"0_1.png \(1 of 6 are not there"),
        ("mmvet", "mm-vet.json", "got no file .*mm-vet.json"),
        ("mmvet", "images/v1_1.png", "images are missing"),
    ],
)
def test_what_is_missing_is_named(name: str, missing: str, message: str, tmp_path: Path) -> None:
    folder = WRITERS[name](tmp_path)
    for path in map(folder.joinpath, missing.split()):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ConfigError, match=message):
        asked(name, folder)


@pytest.mark.parametrize(
    ("name", "path", "old", "new", "message"),
    [
        ("mme", "existence/0001.txt", "\tNo\n", "\tMaybe\n", "expected two, each a question and Yes or No"),
        ("mme", "existence/0001.txt", "\tYes", " Yes", "expected two"),
        ("mme", "existence/0001.txt", "\tNo\n", "\tNo\nIs it?\tNo\n", "got 3 lines"),
        ("amber_existence", "query/query_all.json", '"query"', '"text"', "query_all.json, row 1.*field 'query'"),
        ("amber_existence", "query/query_all.json", '"id": 2,', '"id": 99,', "do not match: got id"),
        ("amber_existence", "query/query_all.json", '"id": 2,', '"id": 1,', "do not match: got id"),
        ("amber_existence", "annotations.json", '"yes"', '"oui"', "annotations.json, row"),
        ("amber_generative_exact", "relation.json", '"ball"', '"bowl"', "is unknown: got 'ball' of id 1"),
        ("amber_generative_exact", "relation.json", '["puppy"]', "3", "relation.json: got no lists"),
        ("hallusionbench", "HallusionBench.json", "null", '"a.png"', "expected a file name for 1 and 2, null for 0"),
        ("hallusionbench", "HallusionBench.json", '"question":', '"text":', "row 1: .*field 'question'"),
        ("hallusionbench", "HallusionBench.json", "[{", "{", "is no JSON"),
        ("mmvet", "mm-vet.json", '["rec"]', '["smell"]', "capabilities of 'v1_0'"),
    ],
)
@pytest.mark.usefixtures("words")
def test_broken_rows_are_named(name: str, path: str, old: str, new: str, message: str, tmp_path: Path) -> None:
    folder = WRITERS[name](tmp_path)
    text = (folder / path).read_text()
    assert old in text
    (folder / path).write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        asked(name, folder)


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    write_mme(tmp_path)
    shutil.copy(tmp_path / "existence" / "0001.jpg", tmp_path / "existence" / "0001.png")
    with pytest.raises(ConfigError, match="got 2 of the name 0001"):
        asked("mme", tmp_path)


@pytest.mark.parametrize("name", WRITERS)
def test_no_splits_and_no_lab_data(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no splits: got 'val'"):
        load_task(name).open_data(tmp_path, "val")
    with pytest.raises(ConfigError, match=f"no data: got task '{name}' without a data folder; expected one with "):
        build_plan(RunConfig(methods=("none",), tasks=(name,)))


def test_figures_may_lie_beside_the_questions(tmp_path: Path) -> None:
    samples = asked("hallusionbench", write_hallusionbench(tmp_path, below="."))
    assert sum(one.image is None for one in samples) == 4
    assert tmp_path / "VD/figure/0_1.png" in {one.image for one in samples}


def test_the_group() -> None:
    assert expand_tasks(["amber"]) == [f"amber_{part}" for part in ("generative", "attribute", "existence", "relation")]


# Runs from end to end


@pytest.fixture
def arguments(checkpoint: Path, tmp_path: Path) -> list[str]:
    return [
        *("--model", str(checkpoint), "--output-dir", str(tmp_path / "results")),
        *("--batch-size", "4", "--gen-kwarg", "max_new_tokens=3"),
    ]


@pytest.mark.parametrize("tasks", ["mme", "amber_attribute,amber_existence,amber_generative_exact", "mmvet"])
@pytest.mark.usefixtures("words")
def test_a_run_is_recorded_and_scored_again(
    tasks: str, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = WRITERS[tasks.split(",")[0]](tmp_path / "data")
    command = [*arguments, "--data-dir", str(folder), "--tasks", tasks, "--limit", "2", "--method", "none"]
    assert main(command) == 0
    runs = find_runs(tmp_path / "results")
    assert len(runs) == len(tasks.split(","))
    for run in runs:
        record, samples = run.read_run(), run.samples()
        assert record is not None
        task = load_task(record.task)
        assert len({one.image for one in samples}) == 2
        assert (record.metrics, record.ability) == (task.score(samples).metrics, task.ability)
        assert record.data_sha256 == task.open_data(folder, None).sha256
        assert record.status == "finished"
    shutil.rmtree(folder)
    assert [(one.changed, one.problem) for one in rescore(tmp_path / "results")] == [((), None)] * len(runs)
    out, err = capsys.readouterr()
    assert "error" not in err
    if tasks == "mme":
        # A column that no run has a value in is not shown; one line says why.
        head = next(line for line in out.splitlines() if line.strip().startswith("existence"))
        assert "count" not in head
        assert "none, no count, count acc, count acc plus" in out


def test_questions_without_an_image_are_asked(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_hallusionbench(tmp_path / "data")
    command = [*arguments, "--data-dir", str(folder), "--tasks", "hallusionbench", "--method", "scr"]
    assert main([*command, "--limit", "2"]) == 0
    assert "hallusionbench · 12 samples on 2 images" in capsys.readouterr().out
    assert main([*command, "--limit", "all"]) == 0
    runs = {run.read_run().method: run for run in find_runs(tmp_path / "results")}
    found = {method: {one.id: one for one in run.samples()} for method, run in runs.items()}
    samples = asked("hallusionbench", folder)
    assert list(found["none"]) == [one.id for one in samples]
    for sample in samples:
        before, after = (found[method][sample.id] for method in ("none", "scr"))
        assert before.image == sample.unit
        # Without an image there is nothing to redistribute.
        assert (before.margin == after.margin) == (sample.image is None)
        assert before.output == after.output or sample.image is not None
    assert [one.problem for one in rescore(tmp_path / "results")] == [None, None]


def test_a_mixed_batch_is_answered_as_its_parts(checkpoint: Path, tmp_path: Path) -> None:
    folder = write_hallusionbench(tmp_path)
    answerer = Answerer(load_model(find_model(str(checkpoint)), dtype="float32", device="cpu"))
    batch = [Question(id=one.id, image=one.image, prompt=one.prompt) for one in asked("hallusionbench", folder)[:4]]
    assert [one.image is None for one in batch] == [True, True, False, False]
    mixed = [batch[0], batch[2], batch[1], batch[3]]

    def ask(questions: list[Question]) -> list[tuple[str, float | None]]:
        answers = answerer.answer(questions, {"max_new_tokens": 3, "do_sample": False}, seed=0, margins=True)
        return [(one.text, one.margin) for one in answers]

    text, shown = ask(batch[:2]), ask(batch[2:])
    assert ask(mixed) == [text[0], shown[0], text[1], shown[1]]


def test_data_are_opened_once_for_all_parts(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, opened = write_amber(tmp_path / "data"), []
    real = amber_questions._open
    monkeypatch.setattr(amber_questions, "_open", lambda *given: opened.append(given) or real(*given))
    tasks = ("amber_attribute", "amber_existence", "amber_relation")
    plan = build_plan(RunConfig(model=str(checkpoint), methods=("none",), tasks=tasks, data_dir=folder))
    assert len(opened) == 1
    assert [cell.work.wanted for cell in plan.cells] == [9, 3, 6]


# The official question files


def linked(source: Path, folder: Path, names: list[str], images: set[Path]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(source / name, folder / name)
    for image in images:
        image.parent.mkdir(parents=True, exist_ok=True)
        image.touch()
    return folder


def test_all_of_hallusionbench(test_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads((test_data / "hallusionbench" / "HallusionBench.json").read_text())
    images = {tmp_path / "hallusion_bench" / row["filename"] for row in rows if row["filename"]}
    folder = linked(test_data / "hallusionbench", tmp_path, ["HallusionBench.json"], images)
    samples = asked("hallusionbench", folder)
    assert [one.prompt for one in samples] == [row["question"] for row in rows]
    assert [one.target for one in samples] == [{"1": "yes", "0": "no"}[row["gt_answer"]] for row in rows]
    assert sum(one.image is None for one in samples) == 178
    assert len({one.unit_name for one in samples}) == 167
    records = answered("hallusionbench", folder)
    answers = as_hallusionbench(tmp_path / "answers.json", folder, records)
    options = ("--questions", folder / "HallusionBench.json", "--answers", answers, "--rule", "words")
    check_equal(load_task("hallusionbench"), records, scored(capsys, "hallusionbench", *options))


def test_all_of_amber(test_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: None) -> None:
    queries = json.loads((test_data / "amber" / "query" / "query_all.json").read_text())
    names = ["annotations.json", "relation.json", "safe_words.txt", "query/query_all.json"]
    images = {tmp_path / "images" / query["image"] for query in queries}
    folder = linked(test_data / "amber", tmp_path, names, images)
    every = {}
    for name, count in {
        "amber_generative_exact": 1004,
        "amber_attribute": 7628,
        "amber_existence": 4924,
        "amber_relation": 1664,
    }.items():
        samples = asked(name, folder)
        assert len(samples) == count
        assert len({one.image for one in samples}) == 1004
        every |= {int(one.id.rsplit("-", 1)[1]): (one.image.name, one.prompt) for one in samples}
    assert [every[query["id"]] for query in queries] == [(query["image"], query["query"]) for query in queries]
    records = answered("amber_attribute", folder)
    responses = as_amber(tmp_path / "answers.json", records)
    options = ("--data", folder, "--responses", responses, "--rule", "plain")
    check_equal(load_task("amber_attribute"), records, scored(capsys, "amber", *options))
