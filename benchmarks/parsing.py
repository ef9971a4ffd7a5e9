"""What a free-text answer to a yes/no question means: "yes", "no" or None, by a named rule.

Each rule but `strict` is the one of an official or widely used scorer, its bugs included: published numbers were made
with them. `strict` is ours: it guesses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from scr import ConfigError

from .suggest import suggestion

RULES: dict[str, str] = {
    "pope": "POPE's evaluate.py: 'No', 'not' or 'no' as a word of the text before the first '.', else yes",
    "mme": "MME's tool: exactly yes/no, else 'yes', then 'no' within the first four characters, else unparsed",
    "amber": "AMBER: exactly 'Yes' or 'No', else unparsed",
    "strict": "ours: the first word is yes/no, or exactly one of the two words occurs, else unparsed",
    "vcd": "VCD's eval_pope.py: is the label a substring of the lower-cased text; needs the label",
}
"""Name of a rule → one line on what it does."""

# A word keeps inner apostrophes and hyphens ("no-one" is not "no"); "_" is markdown's emphasis, not a letter.
_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")


def parse_yes_no(text: str, rule: str, label: str | None = None) -> str | None:
    """The answer that a rule reads from a text.

    Sources: RUCAIBox/POPE 3df3ba1 `evaluate.py`; MME `eval_tool/calculation.py`; junyangwang0410/AMBER 534babf
    `inference.py`; DAMO-NLP-SG/VCD `experiments/eval/eval_pope.py`.

    Args:
        text: what the model said, raw.
        rule: a name of `RULES`.
        label: the true answer, "yes" or "no"; only `vcd` looks at it (and so cannot be wrong in an unbiased way).

    Returns:
        "yes", "no", or None where the rule cannot tell.

    Raises:
        ConfigError: for an unknown rule, or `vcd` without a label.
    """
    if rule == "vcd":
        return _vcd(text, label)
    if rule not in _PARSERS:
        raise ConfigError(
            f"unknown parsing rule: got {rule!r}; expected one of {', '.join(RULES)}. {suggestion(rule, RULES)}"
        )
    return _PARSERS[rule](text)


def _pope(text: str) -> str:
    # Only blanks separate words there: "No\n" and "\"No\"" are other words than "No", hence yes.
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if any(word in ("No", "not", "no") for word in words) else "yes"


def _mme(text: str) -> str | None:
    # For text that is exactly yes or no the first four characters say the same.
    start = text.lower()[:4]
    if "yes" in start:
        return "yes"
    return "no" if "no" in start else None


def _amber(text: str) -> str | None:
    return {"Yes": "yes", "No": "no"}.get(text)


def _strict(text: str) -> str | None:
    words = _WORD.findall(text.casefold())
    if words and words[0] in ("yes", "no"):
        return words[0]
    found = {"yes", "no"}.intersection(words)
    return found.pop() if len(found) == 1 else None


def _vcd(text: str, label: str | None) -> str:
    if label not in ("yes", "no"):
        raise ConfigError(
            f"the rule 'vcd' needs the true answer: got label {label!r}; expected 'yes' or 'no'. "
            "Pass label, or choose another rule."
        )
    # A missing label word counts as the other answer, whatever was said: a false negative or a false positive.
    if label in text.lower():
        return label
    return "no" if label == "yes" else "yes"


_PARSERS: dict[str, Callable[[str], str | None]] = {"pope": _pope, "mme": _mme, "amber": _amber, "strict": _strict}
