"""The prompt variants of `--prompt-variant`: what is added to a benchmark's question before the model sees it.

A changed prompt is a setting of the runner, not a method: nothing inside the model changes.
"""

from __future__ import annotations

from dataclasses import dataclass

from scr.errors import suggestion

YES_NO = "yes_no"
CAPTION = "caption"


class UnknownPromptError(LookupError):
    """There is no prompt variant of that name."""


@dataclass(frozen=True, kw_only=True)
class PromptVariant:
    """What is appended to a question.

    Attributes:
        summary: one line for listings, with its origin.
        suffix: appended to the prompt of a yes/no task.
        caption_suffix: appended to the prompt of a caption task; empty where the suffix is an instruction to answer
            in one word, which is none to describe a picture.
    """

    summary: str
    suffix: str = ""
    caption_suffix: str = ""


# Name → variant.                                                                      ← the only line to add
PROMPTS: dict[str, PromptVariant] = {
    "default": PromptVariant(summary="the benchmark's own prompt, as it is"),
    "one_word": PromptVariant(
        summary="LLaVA's evaluation: 'Answer the question using a single word or phrase.'",
        suffix="\nAnswer the question using a single word or phrase.",
    ),
    "vcd": PromptVariant(
        summary="VCD's evaluation: 'Please answer this question with one word.'",
        suffix=" Please answer this question with one word.",
    ),
    "yes_or_no": PromptVariant(summary="MME's wording: 'Please answer yes or no.'", suffix=" Please answer yes or no."),
    # The full stop is for POPE's rule, which reads what is before the first one. No quotation marks: a model repeats
    # them, and that rule takes '"No"' for a yes.
    "cot": PromptVariant(
        summary="'Let's think step by step.' (Kojima et al. 2022, arXiv 2205.11916); the rest is our wording",
        suffix=(
            " Let's think step by step. Before answering, look step by step at what is in the image. "
            "Begin the answer with Yes or No, followed by a full stop."
        ),
        caption_suffix=(" Let's think step by step. Before describing the image, look step by step at what is in it."),
    ),
    "defensive": PromptVariant(
        summary="our wording: the object may be absent; yes, or a mention, only for what can be seen",
        suffix=" The object may be absent from the image. Say yes only for what can be seen in the image.",
        caption_suffix=" Mention only what is clearly visible in the image.",
    ),
}


def get_prompt(name: str) -> PromptVariant:
    """The variant called `name`.

    Raises:
        UnknownPromptError: for an unknown name, with the nearest known one.
    """
    if name not in PROMPTS:
        raise UnknownPromptError(
            f"unknown prompt variant: got {name!r}; expected one of {', '.join(PROMPTS)}. {suggestion(name, PROMPTS)}"
        )
    return PROMPTS[name]


def apply_prompt(name: str, kind: str, prompt: str) -> str:
    """The text that the model is asked.

    Args:
        name: a variant of `PROMPTS`.
        kind: the task's kind, "yes_no" or "caption".
        prompt: the benchmark's own prompt.

    Raises:
        UnknownPromptError: for an unknown variant.
    """
    variant = get_prompt(name)
    return prompt + (variant.suffix if kind == YES_NO else variant.caption_suffix)
