"""The prompt variants: what a model is asked, by kind of task."""

from __future__ import annotations

import re

import pytest

from benchmarks.running.prompts import CAPTION, PROMPTS, YES_NO, apply_prompt
from benchmarks.tasks.parsing import RULES, parse_yes_no

QUESTION, CAPTIONING = "Is there a dog in the image?", "Please describe this image in detail."


def test_what_is_asked() -> None:
    assert apply_prompt("default", YES_NO, QUESTION) == QUESTION
    assert apply_prompt("vcd", YES_NO, QUESTION) == f"{QUESTION} Please answer this question with one word."
    asked = apply_prompt("cot", YES_NO, QUESTION)
    assert asked.startswith(f"{QUESTION} Let's think step by step. ")
    assert "step by step at what is in the image" in asked
    assert asked.endswith("Begin the answer with Yes or No, followed by a full stop.")
    asked = apply_prompt("defensive", YES_NO, QUESTION)
    assert asked.startswith(QUESTION)
    assert "may be absent" in asked
    assert "Say yes only for what can be seen" in asked


def test_captions_are_not_asked_for_yes_or_no() -> None:
    for name in ("default", "one_word", "vcd", "yes_or_no"):
        assert apply_prompt(name, CAPTION, CAPTIONING) == CAPTIONING
    assert apply_prompt("cot", CAPTION, CAPTIONING).startswith(f"{CAPTIONING} Let's think step by step. ")
    defensive = apply_prompt("defensive", CAPTION, CAPTIONING)
    assert defensive == f"{CAPTIONING} Mention only what is clearly visible in the image."
    for name in PROMPTS:
        assert not re.search(r"\b(yes|no)\b", apply_prompt(name, CAPTION, CAPTIONING), re.IGNORECASE), name


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in ("amber", "vcd", "lmms-eval")])
def test_an_answer_as_cot_asks_for_it_is_read(rule: str) -> None:
    # POPE's rule looks for "not" as well, so what follows the first word must be out of its sight.
    assert parse_yes_no("Yes. The dog is not on the sofa.", rule) == "yes"
    assert parse_yes_no("No. There is a cat.", rule) == "no"


def test_every_variant_has_a_line_for_listings() -> None:
    for name, variant in PROMPTS.items():
        assert variant.summary, name
        assert "\n" not in variant.summary
    assert "2205.11916" in PROMPTS["cot"].summary
    assert "our wording" in PROMPTS["cot"].summary
    assert "our wording" in PROMPTS["defensive"].summary
