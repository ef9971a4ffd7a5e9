"""Every scorer: what comes twice, what is left out, and results that cannot be printed."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.score import main
from scr.files import RepeatedNameError, read_json

PEOPLE = [{"answer": "red", "answer_id": number} for number in range(10)]
VQA = {
    "questions": {"questions": [{"question_id": 1, "image_id": 1, "question": "?"}]},
    "annotations": {
        "annotations": [
            {"question_id": 1, "image_id": 1, "question_type": "what", "answer_type": "other", "answers": PEOPLE}
        ]
    },
    "answers": [{"question_id": 1, "answer": "red"}],
}
GRADED = {"imagename": "1.png", "question": "?", "answer": "x", "capability": ["ocr"]}
MMVET = {"data": {"v1_0": GRADED}, "predictions": {"v1_0": "x"}, "grades": {"v1_0": 1}}
FIGURE = {"category": "VS", "subcategory": "map", "visual_input": "0", "set_id": "0", "question_id": "0"}
POPE = [{"question_id": number, "image": "1.jpg", "text": "?", "label": "yes"} for number in range(3)]


@pytest.fixture
def run(tmp_path, capsys):
    """The status, the JSON object or the error; contents that are text are written as they are."""

    def command(benchmark, files, *extra):
        arguments = [benchmark, *extra]
        for name, content in files.items():
            path = tmp_path / f"{name}.json"
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
            arguments += [f"--{name}", str(path)]
        status = main([*arguments, "--json"])
        out, err = capsys.readouterr()
        return status, json.loads(out, parse_constant=pytest.fail) if status == 0 else err

    return command


def test_a_name_that_an_object_has_twice(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": {"b": 1, "c": 2, "c": 3}}')
    assert read_json(path) == {"a": {"b": 1, "c": 3}}
    with pytest.raises(RepeatedNameError, match=r"a\.json: got 'c' twice; expected each name once"):
        read_json(path, once=True)


@pytest.mark.parametrize(
    ("benchmark", "files"),
    [
        ("caption", {"references": '{"1": ["a"]}', "captions": '{"1": "a", "1": "b"}'}),
        ("caption", {"references": '{"1": ["a"], "1": ["b"]}', "captions": '{"1": "a"}'}),
        ("mmvet", {**MMVET, "predictions": '{"v1_0": "x", "v1_0": "y"}'}),
        ("mmvet", {**MMVET, "grades": '{"v1_0": 0, "v1_0": 1}'}),
        ("chair", {"captions": '{"imgToEval": {"1": {"caption": "a"}, "1": {"caption": "b"}}}', "annotations": ""}),
    ],
)
def test_one_id_twice_in_an_object(run, benchmark, files):
    status, error = run(benchmark, files)
    assert status == 2
    assert "twice; expected each name once. Repair the file." in error


def test_a_question_twice(run):
    twice = {"questions": VQA["questions"]["questions"] * 2}
    status, error = run("vqav2", {**VQA, "questions": twice})
    assert status == 2
    assert "row 2: got the question_id '1' again; expected each once" in error
    assert run("vqav2", VQA)[1]["metrics"]["accuracy"] == 1.0


def test_a_recorded_answer_twice(tmp_path, capsys):
    for name, content in MMVET.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    rows = [json.dumps({"id": "v1_0", "output": text}) for text in "xy"]
    (tmp_path / "samples.jsonl").write_text("\n".join(rows))
    files = [f"--{name}={tmp_path / name}.json" for name in ("data", "grades")]
    assert main(["mmvet", *files, f"--predictions={tmp_path / 'samples.jsonl'}"]) == 2
    assert "row 2: got the id 'v1_0' again; expected each once" in capsys.readouterr().err


def test_what_is_left_out_is_counted(run, tmp_path, capsys):
    questions = [{**FIGURE, "figure_id": str(number), "gt_answer": "1"} for number in range(3)]
    answers = [{**questions[0], "judge_reply": "correct"}]
    found = run("hallusionbench", {"questions": questions, "answers": answers}, "--allow-missing")[1]
    assert (found["counts"]["n"], found["counts"]["missing"]) == (1, 2)

    (tmp_path / "annotations.json").write_text(
        json.dumps([{"id": n, "type": "relation", "truth": "no"} for n in (1, 2)])
    )
    responses = {"responses": [{"id": 1, "response": "No"}]}
    found = run("amber", responses, "--data", str(tmp_path), "--allow-missing")[1]
    assert (found["counts"]["n"], found["counts"]["missing"]) == (1, 1)

    (tmp_path / "existence.txt").write_text("1\t?\tYes\tYes\n1\t?\tNo\tNo\n2\t?\tYes\tYes\n")
    assert main(["mme", "--results", str(tmp_path), "--allow-missing", "--pairing", "image", "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)["counts"]
    assert (counts["n"], counts["missing_tasks"], counts["unpaired"]) == (2, 13, 1)


def test_only_missing_questions_without_an_image_are_a_subset_that_others_score(run):
    questions = [
        {**FIGURE, "figure_id": str(number), "visual_input": str(number), "gt_answer": "1"} for number in (0, 1)
    ]
    answers = [{**question, "judge_reply": "correct"} for question in questions]
    for rows, about_subset in ((answers[1:], True), (answers[:1], False), ([*answers, answers[0]], False)):
        status, error = run("hallusionbench", {"questions": questions, "answers": rows})
        assert (status, "which is the subset that other tools score" in error) == (2, about_subset)


def test_a_figure_with_too_many_digits(run):
    row = {**FIGURE, "figure_id": "9" * 5000, "gt_answer": "1", "judge_reply": "correct"}
    status, error = run("hallusionbench", {"questions": [row], "answers": [row]})
    assert status == 2
    assert "got figure_id '999" in error
    assert len(error) < 400


def test_no_similarity_is_above_no_number(run):
    status, error = run("amber", {"responses": []}, "--data", "x", "--similarity-score", "nan")
    assert (status, error) == (2, "error: argument --similarity-score: got 'nan'; expected a number. See --help.\n")


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "\\ud800\\xe9"), ("utf-8", "\\ud800é")])
def test_names_that_the_terminal_cannot_show(tmp_path, monkeypatch, encoding, shown):
    annotation = {**VQA["annotations"]["annotations"][0], "answer_type": "\ud800é"}
    arguments = ["vqav2"]
    for name, content in {**VQA, "annotations": {"annotations": [annotation]}}.items():
        (tmp_path / name).write_text(json.dumps(content))
        arguments += [f"--{name}", str(tmp_path / name)]
    held = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(held, encoding=encoding))
    assert main(arguments) == 0
    assert f"accuracy_{shown} " in held.getvalue().decode(encoding)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, which is always full, on this system")
def test_a_result_that_cannot_be_written(tmp_path):
    for name, rows in (
        ("questions", POPE),
        ("answers", [{"question_id": one["question_id"], "text": ""} for one in POPE]),
    ):
        (tmp_path / name).write_text(json.dumps(rows))
    command = [sys.executable, "-m", "benchmarks.score", "pope"]
    command += [f"--{name}={tmp_path / name}" for name in ("questions", "answers")]
    root = Path(__file__).parent.parent
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE, text=True, cwd=root)
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot write the result: got No space left on device")
    assert len(done.stderr.splitlines()) == 1
    reading, writing = os.pipe()
    os.close(reading)  # as `| head -0` does
    done = subprocess.run(command, check=False, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=root)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_questions_from_a_pipe_are_of_no_known_version(tmp_path, capsys):
    reading, writing = os.pipe()
    os.write(writing, json.dumps(POPE).encode())
    os.close(writing)
    (tmp_path / "a").write_text(json.dumps([{"question_id": one["question_id"], "text": "yes"} for one in POPE]))
    assert main(["pope", "--questions", f"/dev/fd/{reading}", "--answers", str(tmp_path / "a")]) == 0
    os.close(reading)
    out = capsys.readouterr().out
    assert out.endswith("questions: read from what is no file, so it is not known which they are\n")
    assert "SHA-256" not in out
