"""The prompt variants of `--prompt`: what is added to a benchmark's question before the model sees it.

A changed prompt is a setting of the runner, not a method: nothing inside the model changes.
"""

from __future__ import annotations

from dataclasses import dataclass

from .suggest import suggestion

YES_NO = "yes_no"
CAPTION = "caption"


class UnknownPromptError(LookupError):
    """There is no prompt variant of that name."""


@dataclass(frozen=True, kw_only=True)
class PromptVariant:
    """What is appended to a question.

    Attributes:
        summary: one line for listings, with its origin.
        suffix: appended to the prompt of a yes/no task; a caption task's prompt is left as it is, since
            an instruction to answer in one word is none to describe a picture.
    """

    summary: str
    suffix: str = ""


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
    return prompt + variant.suffix if kind == YES_NO else prompt
