"""`score pope`: official question files, both forms of answer files, every rule, and answers that do not fit."""

from __future__ import annotations

import hashlib
import json
import random

import pytest

from benchmarks import score
from benchmarks.tasks.parsing import RULES, parse_yes_no
from benchmarks.tasks.pope.scorer import KNOWN_FILES

SPLITS = ("random", "popular", "adversarial")
QUESTIONS = [
    {"question_id": 1, "image": "a.jpg", "text": "Is there a dog in the image?", "label": "yes"},
    {"question_id": 2, "image": "a.jpg", "text": "Is there an oven in the image?", "label": "no"},
    {"question_id": 3, "image": "b.jpg", "text": "Is there a dog in the image?", "label": "yes"},
    {"question_id": 4, "image": "b.jpg", "text": "Is there a cup in the image?", "label": "no"},
]


@pytest.fixture
def run(capsys, tmp_path):
    def command(questions, answers, *extra):
        paths = []
        for name, rows in (("questions.json", questions), ("answers.jsonl", answers)):
            if isinstance(rows, list):
                paths.append(tmp_path / name)
                paths[-1].write_text("\n".join(map(json.dumps, rows)))
            else:
                paths.append(rows)
        status = score.main(["pope", "--questions", str(paths[0]), "--answers", str(paths[1]), "--json", *extra])
        out, err = capsys.readouterr()
        return json.loads(out) if status == 0 else err

    return command


def by_id(*texts, start=1):
    return [{"question_id": number, "text": text} for number, text in enumerate(texts, start=start)]


def in_order(*texts):
    return [{"question": row["text"], "answer": text} for row, text in zip(QUESTIONS, texts, strict=False)]


def test_by_hand(run):
    found = run(QUESTIONS, by_id("Yes", "Yes", "No", "No."))
    assert found["task"] == "pope"
    assert found["rule"] == "pope"
    assert found["counts"] == {"n": 4, "tp": 1, "fp": 1, "tn": 1, "fn": 1, "unparsed": 0, "unparsed_strict": 0}
    names = ("accuracy", "precision", "recall", "f1", "yes_ratio", "hallucination_rate")
    assert found["metrics"] == {**dict.fromkeys(names, 0.5), "auc": None}
    assert found["reasons"] == {"auc": "the file of answers has no scores, only texts"}
    # Wilson's, of 2 in 4: (2 + z²/2 ∓ z √(1 + z²/4)) / (4 + z²).
    assert found["intervals"]["yes_ratio"] == pytest.approx([0.150039, 0.849961], abs=1e-6)


@pytest.mark.parametrize(
    ("rule", "counts", "rates"),
    [
        ("pope", [1, 0, 2, 1, 0], [3 / 4, 1.0, 1 / 2, 1 / 4]),
        ("strict", [1, 0, 1, 1, 1], [2 / 4, 1.0, 1 / 2, 1 / 4]),
        ("lmms-eval", [1, 0, 0, 0, 3], [1 / 4, 1.0, 1.0, 2 / 4]),
        ("vlmevalkit", [1, 0, 1, 1, 1], [2 / 4, 1.0, 1 / 2, 1 / 4]),
        ("vcd", [1, 0, 2, 1, 0], [3 / 4, 1.0, 1 / 2, 1 / 4]),
    ],
)
def test_every_rule(run, rule, counts, rates):
    found = run(
        QUESTIONS, by_id("yes", "There is not, I know", "No!" if rule != "pope" else "No", "No."), "--rule", rule
    )
    assert found["rule"] == rule
    assert [found["counts"][name] for name in ("tp", "fp", "tn", "fn", "unparsed")] == counts
    assert [found["metrics"][name] for name in ("accuracy", "precision", "recall", "yes_ratio")] == rates


def test_both_forms_arrays_and_any_order_of_ids_say_the_same(run, tmp_path):
    texts = ["Yes", "No", "It is", "Not here"]
    expected = run(QUESTIONS, by_id(*texts))
    assert run(QUESTIONS, by_id(*texts)[::-1]) == expected
    assert run(QUESTIONS, [{**row, "question_id": str(row["question_id"])} for row in by_id(*texts)]) == expected
    assert (
        run(QUESTIONS, [{"question_id": row["question_id"], "answer": row["text"]} for row in by_id(*texts)])
        == expected
    )
    assert run(QUESTIONS, in_order(*texts)) == expected
    assert run(QUESTIONS, [{"answer": text} for text in texts]) == expected
    suffix = "\nAnswer the question using a single word or phrase."
    asked = [{**row, "question": f"<image> {row['question']} {suffix}"} for row in in_order(*texts)]
    assert run(QUESTIONS, asked) == expected
    for name, rows in (("q.json", QUESTIONS), ("a.json", in_order(*texts))):
        (tmp_path / name).write_text(json.dumps(rows, indent=2))
    assert run(tmp_path / "q.json", tmp_path / "a.json") == expected
    # Another data set's questions are no split of ours, a COCO file's are.
    for name, task in (("aokvqa_pope_seem_random.json", "pope"), ("coco_pope_popular.json", "pope_popular")):
        (tmp_path / name).write_text(json.dumps(QUESTIONS))
        assert run(tmp_path / name, by_id(*texts)) == {**expected, "task": task}


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (by_id("Yes", "No", "No"), "got 1 ids missing: '4'; expected one answer to each of 4 questions"),
        (by_id("Yes", "No", "No", "No", "No"), "got 1 ids of no question: '5'"),
        (by_id("Yes", "No", "No") + by_id("No", start=3), "got 1 ids answered twice: '3'"),
        (in_order("Yes", "No", "No"), "got 1 ids missing: '4'"),
        ([*in_order("Yes", "No", "No", "No"), {"answer": "No"}], "row 5: got 5 answers; expected 4"),
        (in_order("Yes", "No", "No", "No")[::-1], "row 1 answers another question: got 'Is there a cup in the image?'"),
        ([{**by_id("Yes")[0], "question": "Is there a cup in the image?"}], "(question_id 1)"),
        ([{"question_id": 1, "text": None}], "row 1: got"),
        ([{"question_id": True, "text": "Yes"}], "'question_id' (int or str)"),
        ([*by_id("Yes"), {"text": "No"}], "row 2: got"),
        ([{"text": "Yes"}], "with a field 'answer' (str)"),
        (["Yes"], "expected an object"),
        ([], "got 4 ids missing: '1', '2', '3', '4'"),
    ],
)
def test_answers_that_do_not_fit(run, answers, message):
    error = run(QUESTIONS, answers)
    assert message in error
    assert "answers.jsonl" in error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "maybe"}, "row 1: got the label 'maybe'; expected yes or no"),
        ({"label": None}, "expected an object with a field 'label'"),
        ({"question_id": 2}, "row 2: got the question_id '2' again"),
        ({"image": 1}, "expected an object with a field 'image'"),
    ],
)
def test_questions_that_are_none(run, changes, message):
    questions = [{**QUESTIONS[0], **changes}, *QUESTIONS[1:]]
    assert message in run(questions, by_id("Yes", "No", "No", "No"))
    assert "has no questions: got no rows" in run([], [])


@pytest.mark.parametrize("answers", [by_id("Yes", "Yes", "No"), in_order("Yes", "Yes", "No")])
def test_missing_answers_are_counted_and_not_scored(run, answers):
    found = run(QUESTIONS, answers, "--allow-missing")
    assert found["counts"] == {
        **{"n": 3, "tp": 1, "fp": 1, "tn": 0, "fn": 1},
        **{"unparsed": 0, "unparsed_strict": 0, "missing": 1},
    }
    assert found["metrics"]["accuracy"] == 1 / 3
    assert (
        "answered twice" in run(QUESTIONS, answers + by_id("No"), "--allow-missing") or "question_id" not in answers[0]
    )


def test_a_model_that_always_says_no_has_no_precision(run):
    found = run(QUESTIONS, by_id(*["No"] * 4))
    assert found["metrics"]["precision"] is found["metrics"]["f1"] is None
    assert set(found["reasons"]) == {"precision", "f1", "auc"}
    assert found["metrics"]["accuracy"] == 0.5


# Official files


def messy(generator):
    return generator.choice(
        "Yes|No|no|NO.|Yes, there is|No, there isn't|I don't see one.||I am not sure|\nyes|There is no such thing|"
        "Another one. No|**Yes**|no,yes|know|1. no".split("|")
    )


def official_numbers(rows, texts):
    """POPE's evaluate.py as its paper and file describe it, on answers in order."""
    said = ["no" if {"No", "not", "no"} & set(t.split(".")[0].replace(",", "").split(" ")) else "yes" for t in texts]
    pairs = list(zip((row["label"] for row in rows), said, strict=True))
    tp, fp = pairs.count(("yes", "yes")), pairs.count(("no", "yes"))
    tn, fn = pairs.count(("no", "no")), pairs.count(("yes", "no"))
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    return {
        "accuracy": (tp + tn) / (tp + tn + fp + fn),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall),
        "yes_ratio": said.count("yes") / len(said),
    }


@pytest.mark.parametrize("version", ["coco", "coco_legacy"])
@pytest.mark.parametrize("split", SPLITS)
def test_official_files_of_both_versions(run, test_data, split, version, capsys):
    path = test_data / "pope" / version / f"coco_pope_{split}.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == (2910 if (version, split) == ("coco_legacy", "random") else 3000)
    generator = random.Random(split)
    texts = [messy(generator) for _ in rows]
    found = run(path, [{"question": row["text"], "answer": text} for row, text in zip(rows, texts, strict=True)])
    assert found["task"] == f"pope_{split}"
    assert found["counts"]["n"] == len(rows)
    for name, value in official_numbers(rows, texts).items():
        assert found["metrics"][name] == pytest.approx(value, abs=1e-12)
        low, high = found["intervals"][name]
        assert low < value < high
    strict = sum(parse_yes_no(text, "strict") is None for text in texts)
    assert found["counts"]["unparsed_strict"] == strict > 0


def test_known_files(test_data):
    files = sorted((test_data / "pope").glob("coco*/*.json"))
    found = {hashlib.sha256(path.read_bytes()).hexdigest()[:12]: path for path in files}
    assert set(found) == set(KNOWN_FILES)
    for digest, path in found.items():
        assert path.stem.removeprefix("coco_pope_") in KNOWN_FILES[digest]
        assert ("2023" in KNOWN_FILES[digest]) == (path.parent.name == "coco_legacy")


def test_the_version_of_the_questions_is_told(test_data, tmp_path, capsys):
    path = test_data / "pope" / "coco_legacy" / "coco_pope_random.json"
    answers = tmp_path / "answers.jsonl"
    answers.write_text("\n".join('{"answer": "Yes"}' for _ in range(2910)))
    assert score.main(["pope", "--questions", str(path), "--answers", str(answers)]) == 0
    out = capsys.readouterr().out
    assert "COCO random, 2,910 questions, the file of August 2023 (SHA-256 c16b65d2df6d...)" in out
    # Answers to the current random file are not answers to this one.
    rows = (test_data / "pope" / "coco" / "coco_pope_random.json").read_text().splitlines()[:2910]
    answers.write_text("\n".join(json.dumps({"question": json.loads(row)["text"], "answer": "Yes"}) for row in rows))
    assert score.main(["pope", "--questions", str(path), "--answers", str(answers)]) == 2
    assert "row 11 answers another question" in capsys.readouterr().err


def test_every_rule_can_be_chosen(run):
    for rule in RULES:
        assert run(QUESTIONS, by_id("Yes", "No", "Yes", "No"), "--rule", rule)["rule"] == rule
