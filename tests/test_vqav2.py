"""VQAv2: the official accuracy with its quirks, and `score vqav2`."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.score import main
from benchmarks.tasks.vqav2.rule import RULES, SHORT_FORMS, accuracy, normalize


def people(*answers):
    return [{"answer": text, "answer_confidence": "yes", "answer_id": n} for n, text in enumerate(answers, start=1)]


@pytest.mark.parametrize(("matches", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)])
def test_accuracy_is_the_mean_over_ten_leave_one_out_sets(matches, expected):
    # k of ten said it: of the k sets that leave one of those out min(1, (k-1)/3), of the others min(1, k/3).
    said = people(*["red"] * matches, *["blue"] * (10 - matches))
    assert accuracy("red", said) == pytest.approx(expected)
    by_hand = (matches * min(1, (matches - 1) / 3) + (10 - matches) * min(1, matches / 3)) / 10
    assert accuracy("red", said) == pytest.approx(max(0.0, by_hand))


def test_nothing_is_made_alike_where_all_agree():
    all_yes, most_yes = people(*["yes"] * 10), people(*["yes"] * 9, "no")
    for answer in ("Yes", "yes.", "yes!", "the yes"):
        assert accuracy(answer, all_yes) == 0.0
        assert accuracy(answer, most_yes) == 1.0
        assert accuracy(answer, all_yes, "normalized") == 1.0
    assert accuracy(" yes\n", all_yes) == 1.0  # blanks at the ends go in any case
    # "Yes" and "yes" are two answers, so they do not all agree.
    assert accuracy("YES", people("Yes", *["yes"] * 9)) == 1.0


def test_rows_that_are_equal_count_as_one_person():
    assert accuracy("red", [{"answer": "red"}] * 9 + [{"answer": "blue"}]) == pytest.approx(0.1)
    assert accuracy("red", people(*["red"] * 9, "blue")) == 1.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # a sign leaves a blank, or nothing where it touches a blank anywhere
        ("red/blue", "red blue"),
        ("red / blue", "red blue"),
        ("a-b -c", "ab c"),
        ("t-shirt", "t shirt"),
        ("yes, it-is", "yes it is"),
        ("yes!no! ok", "yesno ok"),
        # a comma between digits takes the blanks of all signs
        ("1,000", "1000"),
        ("1,000 red-blue", "1000 redblue"),
        ("1,b", "1 b"),
        # full stops
        ("yes.", "yes"),
        ("3.5", "3.5"),
        ("3. 5", "3 5"),
        ("a.m.", "am"),
        (".5", ".5"),
        # words
        ("Two dogs and TEN cats", "2 dogs and 10 cats"),
        ("none", "0"),
        ("eleven", "eleven"),
        ("The a an apple", "apple"),
        ("an", ""),
        # short forms
        ("dont", "don't"),
        ("don't", "don't"),
        ("Im", "im"),
        ("couldnt've couldn'tve couldntve", "couldn't've couldn't've couldntve"),
        ("somebody'd", "somebodyd"),
        ("twas", "'twas"),
        ("its", "its"),
        ("red: blue; green", "red: blue green"),
        ("", ""),
    ],
)
def test_how_answers_are_made_alike(text, expected):
    assert normalize(text) == normalize(text, 32) == expected


def test_the_official_rule_drops_32_full_stops_only():
    assert normalize("a" + "." * 40, 32) == "a" + "." * 8
    assert normalize("b" + "." * 40) == "b"
    said = people(*["b"] * 9, "c")
    assert [accuracy("b" + "." * number, said) for number in (32, 33)] == [1.0, 0.0]
    assert (accuracy("b" + "." * 40, said), accuracy("b" + "." * 40, said, "normalized")) == (0.0, 1.0)


def test_short_forms():
    assert len(SHORT_FORMS) == 118  # the official table has 120 lines, two of which change nothing
    assert SHORT_FORMS["yall'll"] == SHORT_FORMS["y'allll"] == "y'all'll"
    assert "wontve" not in SHORT_FORMS


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30), st.lists(st.text(max_size=10), min_size=1, max_size=10))
def test_any_text_has_an_accuracy(answer, said):
    for rule in RULES:
        assert 0.0 <= accuracy(answer, people(*said), rule) <= 1.0
    once = normalize(answer)
    assert "\n" not in once
    assert once == once.strip()
    assert not set(once) & set(';/[]"{}()=+\\_-><@`,?!')


def test_what_cannot_be_compared():
    with pytest.raises(ValueError, match="got 'lavis'; expected one of vqav2, normalized"):
        accuracy("a", people("a"), "lavis")
    with pytest.raises(ValueError, match="expected ten"):
        accuracy("a", [])


# The command

QUESTIONS = {"questions": [{"question_id": n, "image_id": 7 + n // 3, "question": "?"} for n in (1, 2, 3)]}
ANNOTATIONS = {
    "annotations": [
        {"question_id": n, "image_id": 7 + n // 3, "question_type": kind, "answer_type": answer_type, "answers": said}
        for n, kind, answer_type, said in (
            (1, "is the", "yes/no", people(*["yes"] * 10)),
            (2, "how many", "number", people(*["2"] * 2, *["3"] * 8)),
            (3, "is the", "other", people(*["red"] * 5, *["blue"] * 5)),
        )
    ]
}
ANSWERS = [
    {"question_id": 3, "answer": "Red."},
    {"question_id": 1, "answer": "Yes"},
    {"question_id": 2, "answer": "two"},
]


def score(capsys, tmp_path, questions=QUESTIONS, annotations=ANNOTATIONS, answers=ANSWERS, flags=()):
    arguments = ["vqav2", *flags]
    for name, content in (("questions", questions), ("annotations", annotations), ("answers", answers)):
        path = tmp_path / f"{name}.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        arguments += [f"--{name}", str(path)]
    code = main(arguments)
    return code, *capsys.readouterr()


def test_scores(capsys, tmp_path):
    code, out, _ = score(capsys, tmp_path, flags=["--json"])
    found = json.loads(out)
    assert (code, found["task"], found["rule"], found["reasons"]) == (0, "vqav2", "vqav2", {})
    assert found["metrics"] == pytest.approx(
        {
            "accuracy": (0 + 0.6 + 1) / 3,
            "accuracy_number": 0.6,
            "accuracy_other": 1.0,
            "accuracy_yes/no": 0.0,
            "accuracy_question_how many": 0.6,
            "accuracy_question_is the": 0.5,
        }
    )
    assert found["counts"] == {"n": 3, "n_number": 1, "n_other": 1, "n_yes/no": 1}
    low, high = found["intervals"]["accuracy"]
    assert low <= found["metrics"]["accuracy"] <= high
    _, out, _ = score(capsys, tmp_path, flags=["--json", "--rule", "normalized"])
    assert json.loads(out)["metrics"]["accuracy"] == pytest.approx((1 + 0.6 + 1) / 3)
    _, out, _ = score(capsys, tmp_path)
    assert "accuracy_question_how many" in out


def test_missing_answers(capsys, tmp_path):
    code, _, err = score(capsys, tmp_path, answers=ANSWERS[:1])
    assert code == 2
    assert "got 2 ids missing: '1', '2'" in err
    code, out, _ = score(capsys, tmp_path, answers=ANSWERS[:1], flags=["--allow-missing", "--json"])
    found = json.loads(out)
    assert (found["metrics"]["accuracy"], found["counts"]["missing"]) == (1.0, 2)
    code, out, _ = score(capsys, tmp_path, answers=[], flags=["--allow-missing", "--json"])
    found = json.loads(out)
    assert (code, found["metrics"], list(found["reasons"])) == (0, {"accuracy": None}, ["accuracy"])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"answers": [*ANSWERS, ANSWERS[0]]}, "got 1 ids answered twice: '3'"),
        ({"answers": [*ANSWERS, {"question_id": 9, "answer": ""}]}, "of no question: '9'"),
        ({"answers": [{"question_id": 1, "answer": 3}]}, "field 'answer' (str)"),
        ({"answers": "{"}, "line 1 is no JSON"),
        ({"questions": {"questions": QUESTIONS["questions"][:2]}}, "annotations.json: got 1 ids of no question: '3'"),
        ({"questions": []}, "got no list 'questions'"),
        ({"annotations": {"annotations": [{"question_id": 1}]}}, "field 'answers' (list)"),
        ({"annotations": {"annotations": [{"question_id": 1, "answers": []}]}}, "got no answers of people"),
        ({"annotations": {"annotations": [{"question_id": 1, "answers": ["yes"]}]}}, "field 'answer' (str)"),
    ],
)
def test_files_that_cannot_be_used(capsys, tmp_path, files, message):
    code, out, err = score(capsys, tmp_path, **files)
    assert (code, out) == (2, "")
    assert message in err
