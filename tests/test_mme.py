"""`score mme`: the official rule by hand and against a second implementation of it, and files that are none."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.score import main
from benchmarks.tasks.mme.rule import (
    COGNITION,
    PERCEPTION,
    TASK_NAMES,
    Answer,
    pairs_by_image,
    pairs_by_line,
    score_tasks,
)

MESSY = (
    "Yes",
    "No",
    "yes.",
    "  Yes",
    " Yes",
    "**Yes**",
    "None",
    "now",
    "Not sure",
    "",
    "The answer is yes",
    "Ano",
    "noyes",
)


def write(folder: Path, rows: dict[str, list[tuple[str, str, str, str]]]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, lines in rows.items():
        (folder / f"{name}.txt").write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def pair(image, first, second):
    return [(image, "A?", "Yes", first), (image, "B?", "No", second)]


def scored(capsys, *arguments):
    assert main(["mme", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments):
    assert main(["mme", *map(str, arguments)]) == 2
    return capsys.readouterr().err


@pytest.fixture
def full(tmp_path):
    """14 tasks; by the official rule existence has 5 of 6 right, 2 of 3 pairs; every other task 1 of 2, no pair."""
    rows = {name: pair("1.jpg", "Yes", "  Yes") for name in TASK_NAMES}
    rows["existence"] = [
        *pair("1.jpg", "Yes", "No"),
        *pair("2.jpg", "YES!", "Not sure"),
        *pair("3.jpg", "yes", "It is no"),
    ]
    return write(tmp_path / "results", rows)


def test_by_hand(full, capsys):
    found = scored(capsys, "--results", full)
    metrics = found["metrics"]
    assert (found["task"], found["rule"]) == ("mme", "mme")
    assert metrics["existence_acc"] == pytest.approx(5 / 6)
    assert metrics["existence_acc_plus"] == pytest.approx(2 / 3)
    assert metrics["existence"] == pytest.approx(100 * (5 / 6 + 2 / 3))
    assert metrics["OCR"] == pytest.approx(50)
    assert metrics["perception"] == pytest.approx(150 + 9 * 50)
    assert metrics["cognition"] == pytest.approx(4 * 50)
    assert metrics["hallucination_subset"] == pytest.approx(150 + 3 * 50)
    assert (metrics["existence_precision"], metrics["existence_recall"]) == (1, 1)
    assert found["units"]["existence"] == "points of 200"
    assert found["units"]["perception"] == "points of 2000"
    assert found["units"]["cognition"] == found["units"]["hallucination_subset"] == "points of 800"
    assert found["counts"]["n"] == 6 + 13 * 2
    assert found["counts"]["unparsed"] == 1 + 13
    assert found["counts"]["unparsed_existence"] == 1
    assert found["reasons"] == {}
    for name, (low, high) in found["intervals"].items():
        assert low <= metrics[name] <= high
    assert "existence" in found["intervals"]
    assert "count" not in found["intervals"]  # one pair has no interval


def test_the_strict_rule_reads_what_the_official_one_does_not(full, capsys):
    metrics = scored(capsys, "--results", full, "--rule", "strict")["metrics"]
    assert metrics["existence"] == pytest.approx(100 * (5 / 6 + 2 / 3))  # "It is no" is a no, "Not sure" is not
    assert metrics["count_acc"] == 0.5
    assert metrics["count_precision"] == 0.5  # "  Yes" is a yes now


def test_the_full_number_of_points():
    answers = [(Answer("i", "yes", "yes"), Answer("i", "no", "no"))] * 3
    metrics = score_tasks(dict.fromkeys(TASK_NAMES, answers)).metrics
    assert (metrics["perception"], metrics["cognition"], metrics["hallucination_subset"]) == (2000, 800, 800)
    assert (len(PERCEPTION), len(COGNITION)) == (10, 4)


def test_a_task_without_a_readable_answer_scores_0_and_says_what_is_undefined(full, capsys):
    write(full, {"count": pair("1.jpg", "", "maybe")})
    found = scored(capsys, "--results", full)
    assert found["metrics"]["count"] == found["metrics"]["count_acc"] == 0
    for name in ("count_precision", "count_recall"):
        assert found["metrics"][name] is None
        assert found["reasons"][name] == "no answer could be read as yes or no"
    assert found["metrics"]["perception"] == pytest.approx(150 + 8 * 50)


def test_missing_files(full, capsys):
    (full / "OCR.txt").unlink()
    assert "got no file for 1 of 14 tasks: OCR.txt" in refused(capsys, "--results", full)
    found = scored(capsys, "--results", full, "--allow-missing")
    for name in ("OCR", "OCR_acc", "perception"):
        assert found["metrics"][name] is None
        assert "OCR" in found["reasons"][name]
    assert found["metrics"]["cognition"] == 200
    assert main(["mme", "--results", str(full), "--allow-missing"]) == 0
    assert "no file for OCR" in capsys.readouterr().out
    assert "Check the folder" in refused(capsys, "--results", full / "nothing", "--allow-missing")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1.jpg\tA?\tYes\tYes\tindeed", "line 3: got 5 columns.*neither TAB nor line break"),
        ("1.jpg\tA?\tYes", "line 3: got 3 columns"),
        ("", "line 3: got 1 columns"),
        ("1.jpg\tA?\tPerhaps\tYes", "line 3: got the true answer 'Perhaps'; expected Yes or No"),
    ],
)
def test_lines_that_are_wrong(line, message, full, capsys):
    path = full / "count.txt"
    path.write_text(path.read_text() + line + "\n1.jpg\tA?\tYes\tYes\n")
    error = refused(capsys, "--results", full)
    assert "count.txt" in error
    assert re.search(message, error)


def test_empty_and_odd_files(full, capsys):
    (full / "count.txt").write_text("")
    assert "count.txt is empty" in refused(capsys, "--results", full)
    (full / "count.txt").write_text("1.jpg\tA?\tYes\tYes\n")
    assert "lines do not come in pairs: got 1" in refused(capsys, "--results", full)
    assert "got 1 of '1.jpg'" in refused(capsys, "--results", full, "--pairing", "image")
    found = scored(capsys, "--results", full, "--pairing", "image", "--allow-missing")
    assert found["metrics"]["count"] is None


def test_the_files_end_and_what_ends_no_line(full, capsys):
    before = scored(capsys, "--results", full)
    # Blank lines at the end, Windows' line ends, and a form feed and a line separator inside responses.
    (full / "count.txt").write_bytes("1.jpg\tA?\tYes\tYes\x0cso\u2028\r\n1.jpg\tB?\tNo\t  Yes\r\n\r\n".encode())
    assert scored(capsys, "--results", full) == before


def test_pairing(full, capsys):
    # Two images, their lines mixed: by line no pair is right, by image one is.
    a, b = pair("a.jpg", "Yes", "No"), pair("b.jpg", "No", "Yes")
    write(full, {"count": [a[0], b[0], a[1], b[1]]})
    assert main(["mme", "--results", str(full)]) == 0
    assert "count: 2 pairs of lines are of two images" in capsys.readouterr().out
    by_line = scored(capsys, "--results", full)
    assert (by_line["metrics"]["count_acc"], by_line["metrics"]["count_acc_plus"]) == (0.5, 0)
    by_image = scored(capsys, "--results", full, "--pairing", "image")
    assert (by_image["metrics"]["count_acc"], by_image["metrics"]["count_acc_plus"]) == (0.5, 0.5)
    assert by_image["rule"] == "mme, paired by image"
    write(full, {"count": [*a, *a, *b]})
    assert "got 4 of 'a.jpg'" in refused(capsys, "--results", full, "--pairing", "image")


def test_pairs():
    one, two = Answer("a", "yes", "yes"), Answer("b", "no", None)
    assert pairs_by_line([one, two]) == [(one, two)]
    assert pairs_by_image([one, two, two, one]) == [(one, one), (two, two)]
    assert pairs_by_line([]) == pairs_by_image([]) == []
    assert not two.correct


def official(lines):
    """The official rule in a second form: the score of a task."""
    right = []
    for _, _, target, response in lines:
        start = (response + "\n").lower()[:4]
        said = "yes" if "yes" in start else "no" if "no" in start else "other"
        right.append(said == target.lower())
    both = [a and b for a, b in zip(right[::2], right[1::2], strict=True)]
    return 100 * sum(right) / len(right) + 100 * sum(both) / len(both)


TEXT = st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.one_of(TEXT, st.sampled_from(MESSY)), TEXT.filter(bool)), min_size=1, max_size=12))
def test_any_response_is_scored_as_officially(tmp_path_factory, capsys, responses):
    generator = random.Random(len(responses))
    lines = []
    for number, (first, image) in enumerate(responses):
        lines += [(image, "A?", "Yes", first), (f"{number}", "B?", "No", generator.choice(MESSY))]
    folder = write(tmp_path_factory.mktemp("mme") / "r", {name: lines for name in TASK_NAMES})
    found = scored(capsys, "--results", folder)["metrics"]
    assert found["existence"] == pytest.approx(official(lines), abs=1e-9)
    assert found["perception"] == pytest.approx(10 * official(lines), abs=1e-9)
