"""What grading finds in a caption, and where: by each rule, in records old and new, and what a report makes of it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import nltk
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_results import record, write

from analysis.findings.failures import caption_strata, failure_findings
from analysis.findings.forest import CAPTIONS, forest_findings, forest_table
from analysis.page.samples import OUTCOMES, outcome_table, shown_samples
from analysis.reading.load import NothingToShowError, load_results
from analysis.reading.marking import mark_hallucinations
from analysis.reading.pairs import caption_pairs, find_pairs
from benchmarks.lab.probes import LabAmberGenerative
from benchmarks.records import SCHEMA, SampleRecord, hallucinated_mentions
from benchmarks.running.rescoring import rescore
from benchmarks.stats import caption_table, ratio_intervals, ratios
from benchmarks.store import RunFolder
from benchmarks.tasks.amber.rule import Words, count_caption, found_nouns, judge_caption
from benchmarks.tasks.amber.words import exact, from_table
from benchmarks.tasks.chair.scorer import read_annotations
from benchmarks.tasks.chair.task import Chair, extract_objects, ground_truth
from scr.reading import place_words
from scr.reading.objects import _tokens


def graded(name: str, output: str, target: list[str], **fields) -> SampleRecord:
    found = Chair().grade(target, output).found
    return SampleRecord(id=name, image=f"{name}.jpg", prompt="?", target=target, output=output, found=found, **fields)


def written(found, name):
    return [mention["word"] for mention in found["mentions"] if mention["node"] == name]


# Where words stand


def test_a_grade_holds_what_is_named_and_where():
    text = 'İ “Two Puppies” sit at a stop \n sign. A "hot dog", and no Wine Glasses; the puppy can\'t see.'
    found = Chair().grade(["dog", "cup", "stop sign"], text).found
    assert [(one["word"], one["node"]) for one in found["mentions"]] == [
        ("Puppies", "dog"),
        ("stop \n sign", "stop sign"),
        ("hot dog", "hot dog"),
        ("Wine Glasses", "wine glass"),
        ("puppy", "dog"),
    ]
    assert all(text[one["start"] : one["end"]] == one["word"] for one in found["mentions"])
    assert (found["hallucinated"], found["grounded"], found["missed"]) == (
        ["hot dog", "wine glass"],
        ["dog", "stop sign"],
        ["cup"],
    )
    assert [one["word"] for one in hallucinated_mentions(found)] == ["hot dog", "Wine Glasses"]


@given(st.text(st.sampled_from(list("dogs. '\"`-,!İßΣ«”(\n\x1c\u2028")), max_size=30))
def test_every_word_of_any_text_has_its_place(text):
    lowered = text.lower()
    words = [word for sentence in _tokens(lowered) for word in sentence]
    spans = place_words(lowered, words)
    for word, (start, end) in zip(words, spans, strict=True):
        assert lowered[start:end] == word or word in ("``", "''")
    outside = re.sub(r"\s", "", "".join(lowered[a:b] for a, b in spans))
    assert outside == re.sub(r"\s", "", lowered), "nothing but blanks is left out"
    assert [node for _, node in extract_objects(text)] == [
        one["node"] for one in Chair().grade([], text).found["mentions"]
    ]


def test_words_of_another_text_are_refused():
    with pytest.raises(ValueError, match="not those of the text: got 'cat' at 'dog'"):
        place_words("a dog", ["a", "cat"])


def test_ambers_nouns_cover_objects_or_are_hallucinated_or_safe():
    words = Words(
        related={"forest": ["tree"], "dog": [], "car": [], "cat": [], "puppy": []},
        safe={"car"},
        similarity=from_table({"dog|puppy": 0.9}),
    )
    text, truth = "A puppy, a tree and a car; a cat, a table.", ["dog", "forest", "forest"]
    spans = place_words(text, nltk.NLTKWordTokenizer().tokenize(text))
    nouns = [(text[start:end], (start, end)) for start, end in spans if text[start:end].isalpha() and end - start > 2]
    count, judged = judge_caption([noun for noun, _ in nouns], truth, [], words)
    assert count == count_caption([noun for noun, _ in nouns], truth, [], words)
    found = found_nouns(text, [span for _, span in nouns], judged, truth)
    assert [(one["word"], one["node"]) for one in found["mentions"]] == [
        ("puppy", "dog"),
        ("tree", "forest"),
        ("car", "car"),
        ("cat", "cat"),
    ]
    # The annotations name the forest twice, and its second place is never covered.
    assert (found["hallucinated"], found["grounded"], found["missed"]) == (["cat"], ["dog", "forest"], ["forest"])
    assert len(hallucinated_mentions(found)) == count.hallucinated
    assert len(found["grounded"]) == count.covered
    assert len(found["grounded"]) + len(found["missed"]) == count.truth
    assert exact("a", "a") == 1


# By the task's own rule


def test_every_hallucinated_mention_on_real_photos_is_graded_and_marked(test_data: Path):
    """Reference captions beside the objects of another photo: most of these are not there."""
    folder = test_data / "coco_sample"
    photos = [row["id"] for row in json.loads((folder / "instances.json").read_text())["images"]]
    annotations = read_annotations(folder, photos)
    texts = [text for photo in photos for text in annotations.references.get(photo, [])]
    by_chair = marked = 0
    records = []
    for number, text in enumerate(reversed(texts)):
        photo = photos[number % len(photos)]
        target = ground_truth(annotations.categories.get(photo, []), annotations.references.get(photo, []))
        sample = graded(str(number), text, target)
        records.append(sample)
        by_chair += sum(node not in target for _, node in extract_objects(text))
        marked += sum(piece.hallucinated for piece in mark_hallucinations(sample))
    assert len(photos) == 53
    assert by_chair > 100
    assert marked == by_chair
    table, scores = caption_table(records), Chair().score(records)
    for name in ("chair_i", "recall"):
        assert ratios(table)[name] == scores.metrics[name]
        assert list(ratio_intervals(table)[name]) == scores.intervals[name]


def test_the_labs_amber_has_the_grades_of_chair():
    target = {"truth": ["dog", "cup"], "hallu": ["cat"]}
    found = LabAmberGenerative().grade(target, "A puppy and a cat.").found
    assert found == Chair().grade(["dog", "cup"], "A puppy and a cat.").found
    sample = SampleRecord(id="1", image="1", prompt="", target=target, output="A puppy and a cat.", found=found)
    scores, table = LabAmberGenerative().score([sample]), caption_table([sample])
    assert (scores.metrics["chair"], scores.metrics["cover"]) == tuple(ratios(table).values())


# Badges

BEFORE = ("A dog and a bus stop sign with a cat.", ["dog", "cup"])


@pytest.mark.parametrize(
    ("after", "outcome"),
    [
        ("A dog.", "fixed"),
        ("A puppy and a cup.", "fixed"),
        ("Nothing.", "traded"),
        ("A cup.", "traded"),
        ("A dog, a horse and another cat, with a cow.", "broken"),
        ("A cat, a horse and a cow.", "broken"),
        ("A dog, a cup, a horse, a cow and a cat.", "traded"),
        ("A dog, a horse and a stop sign.", "changed"),
        (BEFORE[0], "unchanged"),
    ],
)
def test_badges(tmp_path, after, outcome):
    text, target = BEFORE
    write(tmp_path, record(task="chair"), [graded("1", text, target)])
    write(tmp_path, record("scr", task="chair"), [graded("1", after, target)])
    ((shown,),) = shown_samples(load_results(tmp_path).runs)
    assert shown.outcome == outcome
    before, now = (Chair().score([one]).counts for one in (shown.before, shown.after))
    if outcome in ("fixed", "broken"):
        assert (now["hallucinated_mentions"] < before["hallucinated_mentions"]) == (outcome == "fixed")


def test_what_has_no_grade_gets_no_badge(tmp_path):
    for method, text in (("none", "A dog and a cat."), ("scr", "A dog.")):
        write(tmp_path, record(method, task="chair"), [dataclasses.replace(graded("1", text, ["dog"]), found=None)])
    groups = shown_samples(load_results(tmp_path).runs)
    assert groups[0][0].outcome == "ungraded"
    assert outcome_table(groups).records().__next__()["ungraded"] == 1
    assert set(OUTCOMES) >= {"fixed", "broken", "traded", "changed", "ungraded", "unchanged", "alone"}


# The report


def described(root: Path, **fields) -> None:
    """Twelve images: the method drops the cat that is not there from eight captions, and the dog that is from one."""
    before = [graded(str(number), "A dog and a cat.", ["dog"]) for number in range(12)]
    after = [graded(str(number), "A dog." if number < 8 else "A dog and a cat.", ["dog"]) for number in range(11)]
    after.append(graded("11", "A cat.", ["dog"]))
    write(root, record(task="chair", **fields), before)
    write(root, record("scr", task="chair", **fields), after)


def test_the_forest_has_differences_of_captions_per_image(tmp_path):
    described(tmp_path)
    (finding,) = forest_findings(load_results(tmp_path).runs)
    (table,) = finding.tables
    rows = {row["metric"]: row for row in table.records()}
    pairing = find_pairs(load_results(tmp_path).runs)
    assert forest_table(caption_pairs(pairing).pairs, CAPTIONS) == table
    runs = [run.samples for run in load_results(tmp_path).runs]
    plain = Chair().compare(*runs)
    for metric in ("chair_i", "recall"):
        difference = plain.differences[metric]
        assert rows[metric]["difference"] == difference.value
        assert (rows[metric]["difference_low"], rows[metric]["difference_high"]) == difference.interval
    assert rows["recall"]["difference"] == pytest.approx(-1 / 12)
    assert rows["chair_i"]["survives"] is True
    assert (rows["recall"]["p"], rows["recall"]["p_error"]) == (1.0, 0.0)
    assert "1 of 2 differences in CHAIR-i and recall of captions survive" in finding.notes[0]
    (figure,) = (plot().figure for plot in finding.plots)
    assert [axis.get_xlabel() for axis in figure.axes] == ["Δ CHAIR-i (points)", "Δ recall (points)"]


def test_failures_of_captions_are_those_of_objects(tmp_path):
    described(tmp_path)
    ((table,), plots) = ((one.tables, one.plots) for one in failure_findings(load_results(tmp_path).runs)).__next__()
    rows = {(row["row"], row["by"], row["bin"]): row for row in table.records()}
    cat = rows["scr", "objects hallucinated", "cat"]
    assert (cat["wrong"], cat["change"], cat["wrong→right"], cat["questions"]) == (4 / 12, -8 / 12, 8, 12)
    assert ("none", "objects missed", "dog") not in rows, "the baseline misses none"
    (stratum,) = caption_strata(load_results(tmp_path).runs[0].samples)
    assert (stratum.node, stratum.kind, len(stratum.ids)) == ("cat", "hallucinated", 12)
    assert plots[0]().figure


def test_captions_of_an_earlier_schema_are_said_and_not_guessed(tmp_path):
    described(tmp_path, schema=1)
    for path in tmp_path.rglob("samples.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "found"}) + "\n" for row in rows))
    runs = load_results(tmp_path).runs
    assert {run.record.schema for run in runs} == {1}
    assert {one.outcome for group in shown_samples(runs) for one in group} == {"ungraded", "unchanged"}
    assert all(done.problem is None for done in rescore(tmp_path))
    runs = load_results(tmp_path).runs
    assert {run.record.schema for run in runs} == {SCHEMA}
    assert all(
        sample.found == Chair().grade(sample.target, sample.output).found for run in runs for sample in run.samples
    )
    assert "fixed" in {one.outcome for group in shown_samples(runs) for one in group}
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("samples.jsonl")}
    rescore(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "what is graded already is not written again"


def test_the_report_says_that_old_captions_have_no_grade(tmp_path):
    described(tmp_path, schema=1)
    for run in load_results(tmp_path).runs:
        folder = RunFolder(tmp_path, "chair", "lab/llava", run.record.method, run.folder.name.rpartition("-")[2])
        folder.replace_samples([dataclasses.replace(sample, found=None) for sample in run.samples])

    with pytest.raises(NothingToShowError, match=r"--rescore"):
        forest_findings(load_results(tmp_path).runs)


def test_a_sample_that_failed_has_no_grade_and_is_no_old_one(tmp_path):
    failed = SampleRecord(id="2", image="2.jpg", prompt="?", target=["dog"], output="", error="no picture")
    for method, text in (("none", "A dog and a cat."), ("scr", "A dog.")):
        write(tmp_path, record(method, task="chair"), [graded("1", text, ["dog"]), failed])
    (finding,) = forest_findings(load_results(tmp_path).runs)
    assert {row["captions"] for row in finding.tables[0].records()} == {1}
    assert not any("--rescore" in note for note in finding.notes)
    rescore(tmp_path)
    assert [sample.found for sample in load_results(tmp_path).runs[0].samples][1] is None
