"""What each rule reads from an answer, its bugs included."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.tasks.parsing import RULES, parse_yes_no
from scr import ConfigError

# text → pope, mme, amber, strict; "-" stands for unparsed. The column of POPE follows its evaluate.py word by word.
CASES = {
    "Yes": "yes yes yes yes",
    "No": "no no no no",
    "yes": "yes yes - yes",
    "no": "no no - no",
    "": "yes - - -",
    "YES": "yes yes - yes",
    "NO": "yes no - no",
    "No!": "yes no - no",
    '"No"': "yes no - no",
    "(No)": "yes no - no",
    "**Yes**": "yes - - yes",
    "**No**": "yes no - no",
    "_No_": "yes no - no",
    "`no`": "yes no - no",
    "“Yes.”": "yes yes - yes",
    "No\n": "yes no - no",
    "\nNo": "yes no - no",
    "  Yes": "yes - - yes",
    "No, there is not.": "no no - no",
    "No.1": "no no - no",
    "None": "yes no - -",
    "Not sure": "yes no - -",
    "nothing": "yes no - -",
    "I am not sure": "no - - -",
    "There isn't a dog": "yes - - -",
    "I don't see one": "yes - - -",
    "Yes, there is no doubt": "no yes - yes",
    "Hmm. No": "yes - - no",
    "e.g. no": "yes - - no",
    "Explanation ... \nAnswer: No": "yes - - no",
    "The answer is yes.": "yes - - yes",
    "It is no yes and no": "no - - -",
    "Well, yes and no": "no - - -",
    "1. Yes": "yes - - yes",
    "no-one is there": "yes no - -",
    "a no-go, yes?": "yes no - yes",
    "cannot": "yes - - -",
    "Nein": "yes - - -",
    "Ja": "yes - - -",
    "eyes": "yes yes - -",
    "there  is no  dog": "no - - no",
    "no,dog": "yes no - no",
}


@pytest.mark.parametrize("text", CASES)
def test_rules(text):
    expected = [None if word == "-" else word for word in CASES[text].split()]
    assert [parse_yes_no(text, rule) for rule in ("pope", "mme", "amber", "strict")] == expected


@pytest.mark.parametrize(
    ("text", "with_yes", "with_no"),
    [
        ("Yes", "yes", "yes"),
        ("No", "no", "no"),
        ("I know, yes", "yes", "no"),  # "know" holds "no": right under either label
        ("another", "no", "no"),
        ("", "no", "yes"),  # wrong under either label
        ("EYES", "yes", "yes"),
    ],
)
def test_vcd_looks_for_the_label_alone(text, with_yes, with_no):
    assert parse_yes_no(text, "vcd", "yes") == with_yes
    assert parse_yes_no(text, "vcd", "no") == with_no


@pytest.mark.parametrize("label", [None, "", "Yes", "maybe"])
def test_vcd_without_a_label_is_refused(label):
    with pytest.raises(ConfigError, match="needs the true answer"):
        parse_yes_no("Yes", "vcd", label)


# text → lmms-eval, vlmevalkit; the second column as VLMEvalKit's own functions give it.
OTHER_CASES = {
    "Yes": "yes yes",
    " NO\n": "no no",
    "yes.": "- yes",
    "No, there is not.": "- no",
    "": "- -",
    "**Yes**": "- -",  # no asterisk among the marks
    "'no'": "- -",
    '"No"': "- no",
    "(yes)": "- yes",
    "`no`": "- no",
    "_no_": "- no",
    "Answer: yes": "- yes",
    "yes: a dog": "- -",
    "Yes, there is no doubt": "- -",
    "I am not sure": "- -",
    "None": "- -",
    "no-one": "- no",  # the hyphen becomes a blank,
    "no-one - nobody": "- -",  # but here another one stands beside a blank: "noone"
    "yes/no": "- -",
    "no/maybe": "- no",
    "no,dog": "- no",
    "no,dog, cat": "- -",
    "no,1,000 dogs": "- -",
    "no.1": "- -",
    "no.dog": "- -",
    "no...": "- no",
    "." * 32 + "no": "- no",
    "." * 33 + "no": "- -",
    "Yes yes": "- yes",
    "\u00a0yes\u2003": "yes yes",
}


@pytest.mark.parametrize("text", OTHER_CASES)
def test_rules_of_evaluation_kits(text):
    expected = [None if word == "-" else word for word in OTHER_CASES[text].split()]
    assert [parse_yes_no(text, rule) for rule in ("lmms-eval", "vlmevalkit")] == expected


@given(
    st.text(st.sampled_from("yesnoYESNO .,-!?'\"*()_/\n1ti") | st.characters(), max_size=40), st.sampled_from([*RULES])
)
@settings(max_examples=50, deadline=None)
def test_any_text_is_read_by_any_rule(text, rule):
    assert parse_yes_no(text, rule, "no") in ("yes", "no", None)
    # What is exactly one of the words means it, whatever the rule.
    assert parse_yes_no("Yes", rule, "yes") == "yes"
    assert parse_yes_no("No", rule, "no") == "no"


def test_parsing_needs_no_torch():
    """An error does, so it is imported where it is raised."""
    code = "import sys, benchmarks.tasks.parsing as p; p.parse_yes_no('yes', 'pope'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_rule_lists_those_there_are():
    with pytest.raises(
        ConfigError,
        match=r"got 'popes'; expected one of pope, mme, .*, vcd, lmms-eval, vlmevalkit\. Did you mean 'pope'",
    ):
        parse_yes_no("Yes", "popes")


def test_every_listed_rule_works_and_answers_one_of_three():
    texts = [*CASES, "\x00", "\ud800", "no" * 10_000, "日本語", "ﬁ"]
    for rule in RULES:
        assert {parse_yes_no(text, rule, "yes") for text in texts} <= {"yes", "no", None}


def test_pope_and_vcd_never_leave_an_answer_unparsed():
    for text in CASES:
        assert parse_yes_no(text, "pope") is not None
        assert parse_yes_no(text, "vcd", "no") is not None
