"""What a free-text answer to a yes/no question means: "yes", "no" or None, by a named rule.

Each rule but `strict` is the one of an official or widely used scorer, its bugs included: published numbers were made
with them. `strict` is ours: it guesses nothing. How parsed answers become rates can depend on the rule as well: see
`benchmarks.tasks.yes_no.AGGREGATIONS`.

Nothing here needs torch; so the errors, which come from a package that does, are imported where they are raised.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from scr.errors import suggestion

RULES: dict[str, str] = {
    "pope": "POPE's evaluate.py: 'No', 'not' or 'no' as a word of the text before the first '.', else yes",
    "mme": "MME's tool: exactly yes/no, else 'yes', then 'no' within the first four characters, else unparsed",
    "amber": "AMBER: exactly 'Yes' or 'No', else unparsed",
    "strict": "ours: the first word is yes/no, or exactly one of the two words occurs, else unparsed",
    "vcd": "VCD's eval_pope.py: is the label a substring of the lower-cased text; needs the label",
    "lmms-eval": "lmms-eval's POPE: exactly yes/no but for case and outer blanks, else unparsed",
    "vlmevalkit": "VLMEvalKit: exactly one of yes/no among the words, punctuation removed, else unparsed",
}
"""Name of a rule → one line on what it does."""

# A word keeps inner apostrophes and hyphens ("no-one" is not "no"); "_" is markdown's emphasis, not a letter.
_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")

# VLMEvalKit's punctuation, which is that of VQA: no asterisk, colon or quotation mark other than '"'.
_VLMEVALKIT_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_DIGITS_WITH_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"(?<!\d)\.(?!\d)")


def parse_yes_no(text: str, rule: str, label: str | None = None) -> str | None:
    """The answer that a rule reads from a text.

    Sources: RUCAIBox/POPE 3df3ba1 `evaluate.py`; MME `eval_tool/calculation.py`; junyangwang0410/AMBER 534babf
    `inference.py`; DAMO-NLP-SG/VCD `experiments/eval/eval_pope.py`; lmms-eval 0.7.3 `tasks/pope/utils.py`; VLMEvalKit
    (ms-vlmeval 0.0.20) `YOrN_Extraction` and `process_punctuation`, without the language model it may ask afterwards.

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
        from scr import ConfigError

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
        from scr import ConfigError

        raise ConfigError(
            f"the rule 'vcd' needs the true answer: got label {label!r}; expected 'yes' or 'no'. "
            "Pass label, or choose another rule."
        )
    # A missing label word counts as the other answer, whatever was said: a false negative or a false positive.
    if label in text.lower():
        return label
    return "no" if label == "yes" else "yes"


def _lmms_eval(text: str) -> str | None:
    word = text.lower().strip()
    return word if word in ("yes", "no") else None


def _vlmevalkit(text: str) -> str | None:
    text = cleaned = text.lower()
    with_comma = _DIGITS_WITH_COMMA.search(text) is not None
    for mark in _VLMEVALKIT_MARKS:
        # Dropped where it stands beside a blank anywhere in the text, otherwise a blank: "no-one, no - no" is "noone".
        beside_blank = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if beside_blank or with_comma else " ")
    # The official call passes a flag where the largest number of replacements belongs: 32.
    found = {"yes", "no"}.intersection(_PERIOD.sub("", cleaned, count=32).split())
    return found.pop() if len(found) == 1 else None


_PARSERS: dict[str, Callable[[str], str | None]] = {
    "pope": _pope,
    "mme": _mme,
    "amber": _amber,
    "strict": _strict,
    "lmms-eval": _lmms_eval,
    "vlmevalkit": _vlmevalkit,
}
