"""`score hallusionbench`: by hand, on the official questions, and against a second implementation of the rule."""

from __future__ import annotations

import json
import random
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.score import main
from benchmarks.tasks.hallusionbench.rule import RIGHT, RULES, UNCLEAR, WRONG, Question, read_verdict, score_verdicts

REPLIES = (
    "correct",
    "Correct.",
    "incorrect",
    "Incorrect",
    "INCORRECT!",
    "unclear",
    "not correct",
    "",
    "**correct**",
    "?",
)


def row(category, visual_input, figure, question, gt, **fields):
    names = {"category": category, "subcategory": "map", "visual_input": visual_input, "set_id": "0"}
    return {**names, "figure_id": figure, "question_id": question, "question": "?", "gt_answer": gt, **fields}


# Two groups (questions 0 and 1) over no figure, an original and an edited one.
QUESTIONS = [
    row("VS", "0", "0", "0", "1"),
    row("VS", "0", "0", "1", "0"),
    row("VS", "1", "1", "0", "1"),
    row("VS", "1", "1", "1", "0"),
    row("VS", "2", "2", "0", "0"),
    row("VS", "2", "2", "1", "1"),
]


@pytest.fixture
def files(tmp_path):
    def write(rows, questions=QUESTIONS):
        for name, content in (("questions", questions), ("answers", rows)):
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return [
            "hallusionbench",
            *(part for n in ("questions", "answers") for part in (f"--{n}", f"{tmp_path / n}.json")),
        ]

    return write


def scored(capsys, arguments):
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, arguments):
    assert main(arguments) == 2
    return capsys.readouterr().err


def test_by_hand(files, capsys):
    replies = ["unclear", "incorrect", "correct", "correct", "unclear", "not correct"]
    rows = [{**one, "judge_reply": reply} for one, reply in zip(QUESTIONS, replies, strict=True)]
    found = scored(capsys, files(rows))
    # Right: 1 (unclear, but no figure is shown), 3, 4, and 6 by the official bug.
    assert found["metrics"] == pytest.approx(
        {
            "a_acc": 4 / 6,
            "q_acc": 0,  # question 0 fails on figure 2, question 1 on figure 0
            "f_acc": 1 / 2,  # figure 1; figure 0 of a visual supplement is none
            "easy": 1 / 2,  # question 0 without the edited figure
            "hard": 1 / 2,  # question 1 on the edited figure
            # Answered yes: 1 and 3 and 6 right with yes, 2 and 5 wrong with no; truly yes: 3.
            "yes_bias": (5 - 3) / 6,
            "fp_ratio": 2 / 2,
            "overall": (4 / 6 + 0 + 1 / 2) / 3,
        }
    )
    assert found["counts"] == {
        **{"n": 6, "correct": 4, "wrong": 2, "unclear": 2, "question_groups_correct": 0, "question_groups": 2},
        **{"figures_correct": 1, "figures": 2, "easy_groups_correct": 1, "easy_groups": 2, "hard_groups_correct": 1},
        "hard_groups": 2,
    }
    sane = scored(capsys, [*files(rows), "--rule", "judge_words"])
    assert sane["metrics"]["a_acc"] == 3 / 6
    assert sane["rule"] == "judge_words"


def test_without_a_judge(files, capsys):
    said = ["Yes", "I cannot see it", "yes, it does", "No!", "**No**", "Nothing"]
    rows = [{**one, "model_prediction": text} for one, text in zip(QUESTIONS, said, strict=True)]
    arguments = files(rows)
    words = scored(capsys, [*arguments, "--rule", "words"])
    assert words["counts"]["correct"] == 4  # 1, 2 (not to know, without a figure), 3, 4; markup is no word
    assert words["counts"]["unclear"] == 3
    assert scored(capsys, [*arguments, "--rule", "strict"])["counts"]["correct"] == 5
    assert main([*arguments, "--rule", "words"]) == 0
    assert "not comparable with judged scores" in capsys.readouterr().out
    assert "got neither judge_reply nor gpt4v_output_gpt_check for VS/map/0/0/0" in refused(capsys, arguments)


@pytest.mark.parametrize(
    ("reply", "official", "ours"),
    [
        ("Correct", RIGHT, RIGHT),
        ("The prediction is Incorrect.", WRONG, WRONG),
        ("not correct", RIGHT, WRONG),
        ("isn't entirely correct", RIGHT, WRONG),
        ("not incorrect", WRONG, RIGHT),
        ("correct or incorrect", WRONG, UNCLEAR),
        ("correctness cannot be told", RIGHT, UNCLEAR),
        ("unclear", UNCLEAR, UNCLEAR),
        ("", UNCLEAR, UNCLEAR),
    ],
)
def test_replies_of_the_judge(reply, official, ours):
    assert [read_verdict(reply, rule, target=True) for rule in ("judge", "judge_words")] == [official, ours]


@pytest.mark.parametrize("field", ["judge_reply", "gpt4v_output_gpt_check"])
@pytest.mark.parametrize("kind", [str, int])
def test_verdicts_as_the_official_tool_saves_them(files, capsys, field, kind):
    for verdict, correct in (("1", len(QUESTIONS)), ("0", 0), ("2", 2)):  # unclear is right without a figure
        rows = [{**one, field: kind(verdict)} for one in QUESTIONS]
        for rule in ("judge", "judge_words"):
            assert scored(capsys, [*files(rows), "--rule", rule])["counts"]["correct"] == correct
    assert main(files(rows)) == 0
    printed = capsys.readouterr().out
    assert f"{len(rows)} of {len(rows)} verdicts are recorded ones" in printed
    assert "every verdict is unclear, such as that of '2'" in printed
    replied = [{**one, "judge_reply": "correct", "gpt4v_output_gpt_check": "0"} for one in QUESTIONS]
    assert scored(capsys, files(replied))["metrics"]["a_acc"] == 1.0
    assert "got '3' in gpt4v_output_gpt_check; expected 0, 1 or 2. Repair" in refused(
        capsys, files([{**one, "gpt4v_output_gpt_check": "3"} for one in QUESTIONS])
    )


def test_nothing_wrong_and_nothing_at_all(files, capsys):
    rows = [{**one, "judge_reply": "correct"} for one in QUESTIONS]
    found = scored(capsys, files(rows))
    assert found["metrics"]["fp_ratio"] is None
    assert found["reasons"] == {"fp_ratio": "no answer was wrong"}
    assert {found["metrics"][name] for name in ("a_acc", "q_acc", "f_acc", "easy", "hard")} == {1.0}
    empty = score_verdicts([])
    assert set(empty.metrics.values()) == {None}
    assert set(empty.reasons) == set(empty.metrics)


def test_what_does_not_fit(files, capsys):
    rows = [{**one, "judge_reply": "correct"} for one in QUESTIONS]
    assert "1 ids missing: 'VS/map/0/0/0'" in refused(capsys, files(rows[1:]))
    assert "answered twice" in refused(capsys, files([*rows, rows[0]]))
    assert "of no question" in refused(capsys, files([*rows, {**rows[0], "set_id": "7"}]))
    assert "expected an object with a field 'subcategory'" in refused(capsys, files([{"category": "VS"}]))
    for wrong in (None, True, ["correct"]):
        assert "'judge_reply'" in refused(capsys, files([{**rows[0], "judge_reply": wrong}, *rows[1:]]))
    message = refused(capsys, files([{**rows[0], "judge_reply": 3}, *rows[1:]]))
    assert "row 1: got 3 in judge_reply; expected 0, 1 or 2, or a text" in message
    for wrong in ({"gt_answer": "2"}, {"visual_input": "3"}, {"category": "VX"}, {"figure_id": "x"}):
        assert "Use the official" in refused(capsys, files(rows, [{**QUESTIONS[0], **wrong}]))
    assert "a second time" in refused(capsys, files(rows, [QUESTIONS[0]] * 2))
    assert main([*files(rows), "--rule", "gpt"]) == 2


def test_the_subset_with_images(files, capsys):
    rows = [{**one, "judge_reply": "correct", "set_id": 0} for one in QUESTIONS if one["visual_input"] != "0"]
    assert "all there, which is the subset that other tools score" in refused(capsys, files(rows))
    assert main([*files(rows), "--allow-missing"]) == 0
    assert "exactly the 4 questions with an image" in capsys.readouterr().out
    assert main([*files(rows[1:]), "--allow-missing"]) == 0
    assert "those of the answered questions alone" in capsys.readouterr().out


def reference(rows):
    """The official rule in a second form: groups of verdicts by key, from the rows as they are."""

    def share(rows, *keys):
        groups = defaultdict(list)
        for one in rows:
            groups[tuple(one[key] for key in ("category", "subcategory", "set_id", *keys))].append(one["ok"])
        return sum(map(all, groups.values())) / len(groups)

    for one in rows:
        text = one["judge_reply"].lower()
        verdict = 0 if "incorrect" in text else 1 if "correct" in text else 2
        one["ok"] = verdict == 1 or (verdict == 2 and one["category"] == "VS" and one["figure_id"] == "0")
    wrong = [one for one in rows if not one["ok"]]
    truth = [int(one["gt_answer"]) for one in rows]
    return {
        "a_acc": sum(one["ok"] for one in rows) / len(rows),
        "q_acc": share(rows, "question_id"),
        "f_acc": share([one for one in rows if one["category"] != "VS" or one["figure_id"] != "0"], "figure_id"),
        "easy": share([one for one in rows if one["visual_input"] != "2"], "question_id"),
        "hard": share([one for one in rows if one["visual_input"] == "2"], "question_id"),
        "yes_bias": sum(one["ok"] == gt for one, gt in zip(rows, truth, strict=True)) / len(rows)
        - sum(truth) / len(rows),
        "fp_ratio": sum(one["gt_answer"] == "0" for one in wrong) / len(wrong),
    }


@pytest.mark.parametrize("seed", range(3))
def test_the_official_questions(seed, test_data, files, capsys):
    questions = json.loads((test_data / "hallusionbench" / "HallusionBench.json").read_text())
    generator = random.Random(seed)
    rows = [{**one, "judge_reply": generator.choice(REPLIES[: 3 + 3 * seed])} for one in questions]
    generator.shuffle(rows)
    found = scored(capsys, files(rows, questions))
    expected = reference(rows)
    assert {name: found["metrics"][name] for name in expected} == pytest.approx(expected, abs=1e-12)
    counts = found["counts"]
    assert [counts[name] for name in ("n", "question_groups", "figures", "easy_groups", "hard_groups")] == [
        *(1129, 455, 346, 455, 430)
    ]
    for name, (low, high) in found["intervals"].items():
        assert low <= found["metrics"][name] <= high


def test_always_yes_on_the_official_questions(test_data, files, capsys):
    questions = json.loads((test_data / "hallusionbench" / "HallusionBench.json").read_text())
    found = scored(
        capsys, [*files([{**one, "model_prediction": "Yes."} for one in questions], questions), "--rule", "words"]
    )
    assert found["metrics"]["a_acc"] == pytest.approx(484 / 1129)
    assert found["metrics"]["yes_bias"] == pytest.approx(645 / 1129)
    assert found["metrics"]["fp_ratio"] == 1.0


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40), st.booleans())
def test_any_text_has_a_verdict(text, target):
    for rule in RULES:
        assert read_verdict(text, rule, target) in (WRONG, RIGHT, UNCLEAR)
    question = Question("VD", "map", "1", "0", "0", "0", target)
    assert not question.without_figure


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from((*QUESTIONS[0], "judge_reply")), inner, max_size=5)
    ),
    max_leaves=12,
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JSON, st.booleans())
def test_any_json_is_scored_or_refused(files, capsys, content, as_questions):
    good = [{**one, "judge_reply": "correct"} for one in QUESTIONS]
    arguments = files(good, content) if as_questions else files(content)
    assert main([*arguments, "--allow-missing"]) in (0, 2)
    err = capsys.readouterr().err
    assert err == "" or err.startswith("error: ")
