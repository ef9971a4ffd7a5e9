"""`score mmvet`: grades by capability, and the file to grade."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.score import main
from benchmarks.tasks.mmvet.scorer import CAPABILITIES, MMVetScorer, _read_grades
from scr import DataFileError

DATA = {
    f"v1_{n}": {"imagename": f"v1_{n}.png", "question": f"What {n}?", "answer": "x<AND>y", "capability": needs}
    for n, needs in enumerate((["ocr", "math"], ["rec"], ["math", "ocr"], ["rec", "know", "gen"]))
}
PREDICTIONS = {name: f"answer {name}" for name in DATA}
GRADES = {"v1_0": 1, "v1_1": 0.5, "v1_2": 0.2, "v1_3": 0.0}


def score(capsys, tmp_path, *flags, data=DATA, predictions=PREDICTIONS, grades=GRADES):
    arguments = ["mmvet", *flags]
    for name, content in (("data", data), ("predictions", predictions), ("grades", grades)):
        if content is not None:
            path = tmp_path / f"{name}.json"
            path.write_text(content if isinstance(content, str) else json.dumps(content))
            arguments += [f"--{name}", str(path)]
    code = main(arguments)
    return code, *capsys.readouterr()


def test_scores_by_hand(capsys, tmp_path):
    code, out, _ = score(capsys, tmp_path, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["metrics"] == {
        "total": pytest.approx(1.7 / 4),
        "rec": pytest.approx(0.25),
        "ocr": pytest.approx(0.6),
        "know": 0.0,
        "gen": 0.0,
        "spat": None,
        "math": pytest.approx(0.6),
        "exactly_rec": 0.5,
        "exactly_ocr_math": pytest.approx(0.6),
        "exactly_rec_know_gen": 0.0,
    }
    assert found["reasons"] == {"spat": "no question that needs this was graded"}
    assert found["counts"]["n"] == 4
    assert (found["counts"]["runs"], found["counts"]["n_ocr"], found["counts"]["n_spat"]) == (1, 2, 0)
    assert found["intervals"]["total"][0] <= 1.7 / 4 <= found["intervals"]["total"][1]


def test_several_runs(capsys, tmp_path):
    runs = {"v1_0": [1, 0], "v1_1": [0.5, 0.5], "v1_2": [0.2, 0.4], "v1_3": [0, 1]}
    _, out, _ = score(capsys, tmp_path, "--json", grades=runs)
    found = json.loads(out)["metrics"]
    # Totals of the two runs: 1.7/4 and 1.9/4; the deviation is half their distance.
    assert found["total"] == pytest.approx(1.8 / 4)
    assert found["total_std"] == pytest.approx(0.1 / 4)
    assert (found["ocr"], found["ocr_std"]) == (pytest.approx(0.4), pytest.approx(0.2))
    assert found["rec_std"] == pytest.approx(0.25)
    assert found["spat_std"] is None
    official = {name: {"model": "m", "content": ["?"], "score": grades} for name, grades in runs.items()}
    _, out, _ = score(capsys, tmp_path, "--json", grades=official)
    assert json.loads(out)["metrics"] == found


def test_what_to_grade_is_written(capsys, tmp_path):
    path = tmp_path / "to_grade.jsonl"
    code, out, _ = score(capsys, tmp_path, "--export", str(path), "--json", grades=None)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert code == 0
    assert [row["id"] for row in rows] == list(DATA)
    assert rows[1]["prompt"].endswith("Question: What 1?\nReference: x<AND>y\nAnswer: answer v1_1\nGrade:")
    assert "0.0 (wrong) to 1.0 (right)" in rows[0]["prompt"]
    found = json.loads(out)
    assert set(found["metrics"].values()) == {None}
    assert set(found["reasons"].values()) == {"no grades were given"}
    code, _, err = score(capsys, tmp_path, "--export", str(path), grades=None)
    assert code == 2
    assert "expected the name of a new file" in err
    assert len(path.read_text().splitlines()) == 4


def test_missing(capsys, tmp_path):
    code, _, err = score(capsys, tmp_path, grades={"v1_0": 1})
    assert code == 2
    assert "grades.json: got 3 ids missing: 'v1_1', 'v1_2', 'v1_3'" in err
    code, out, _ = score(capsys, tmp_path, "--allow-missing", "--json", grades={"v1_0": 1})
    found = json.loads(out)
    assert (found["metrics"]["total"], found["metrics"]["rec"], found["counts"]["missing"]) == (1.0, None, 3)
    assert found["reasons"]["rec"]
    assert score(capsys, tmp_path, "--allow-missing", grades={})[0] == 0
    code, _, err = score(capsys, tmp_path, predictions={"v1_0": "a"})
    assert code == 2
    assert "predictions.json: got 3 ids missing" in err


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"grades": None}, "got neither --grades nor --export"),
        ({"grades": {**GRADES, "v1_9": 1}}, "got 1 ids of no question: 'v1_9'"),
        ({"grades": {**GRADES, "v1_1": 1.1}}, "the grade of 'v1_1': got 1.1; expected a number from 0 to 1"),
        ({"grades": {**GRADES, "v1_1": "0.5"}}, 'got "0.5"; expected a number'),
        ({"grades": {**GRADES, "v1_1": True}}, "got true; expected a number"),
        ({"grades": {**GRADES, "v1_1": []}}, "got []; expected a number"),
        ({"grades": {**GRADES, "v1_1": [1, 0]}}, "expected 1 of them"),
        ({"grades": {**GRADES, "v1_1": {"content": ["1"]}}}, "expected a number"),
        ({"grades": [1]}, "the file: got [1]"),
        ({"grades": '{"v1_0": NaN}'}, "NaN is no number of JSON"),
        ({"predictions": {**PREDICTIONS, "v1_1": 3}}, "the answer to 'v1_1': got 3; expected a text"),
        ({"data": {"v1_0": {**DATA["v1_0"], "capability": ["ocr", "smell"]}}}, "expected some of rec, ocr, know"),
        ({"data": {"v1_0": {"question": "?"}}}, "field 'capability' (list)"),
    ],
)
def test_files_that_cannot_be_used(capsys, tmp_path, files, message):
    code, out, err = score(capsys, tmp_path, **files)
    assert (code, out) == (2, "")
    assert message in err


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["score", "a"]), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=50, deadline=None)
@given(content=st.dictionaries(st.text(max_size=3), VALUES, max_size=4))
def test_any_file_of_grades_is_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("grades") / "grades.json"
    path.write_text(json.dumps(content))
    try:
        found = _read_grades(path)
    except DataFileError:
        return
    assert found.keys() == content.keys()
    assert all(0 <= grade <= 1 for grades in found.values() for grade in grades)
    assert len({len(grades) for grades in found.values()}) <= 1


def test_capabilities_and_summary():
    assert len(CAPABILITIES) == 6
    assert "MM-Vet" in MMVetScorer.summary
