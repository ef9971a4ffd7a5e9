"""Whether an answer to "Describe the X in this image." denies that there is such a thing. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Callable

RULES: dict[str, str] = {
    "source": "any of 13 substrings in the lower-cased text, as in Compact-VLM's script: 'piano ' holds 'no '",
    "strict": "ours: whole words, contractions with any apostrophe, about the object asked for; no words: unparsed",
}
"""Name of a rule → one line on what it does."""

REFUSED, DESCRIBED = "refused", "described"

_SUBSTRINGS = (
    "not see|no |don't see|cannot see|there is no|not mentioned|not present|n/a|missing|does not contain|"
    "unable to find|cannot provide|image is blurry"
).split("|")

# Contractions are written out first, so that one pattern holds all forms of a negation.
_WRITTEN_OUT = (
    (re.compile(r"[‘’ʼ′`´]"), "'"),
    (re.compile(r"\s+"), " "),
    (re.compile(r"\b(?:cannot|can't|cant)\b"), "can not"),
    (re.compile(r"\bwon't\b"), "will not"),
    (re.compile(r"\b(do|does|did|is|are|was|were|could|has|have)n'?t\b"), r"\1 not"),
    (re.compile(r"\bi'?m\b"), "i am"),
    (re.compile(r"\b(there|it|that|here)'s\b"), r"\1 is"),
)
_SENTENCE = re.compile(r"(?<=[.!?;])\s+")
_ADVERB = r"(?:(?:actually|really|clearly|currently|personally|also|even|quite|immediately|explicitly|any) )*"
_SEE = r"(?:see|seeing|find|spot|detect|identify|locate|observe|notice|make out|discern|recognize|recognise)"
_PICTURE = r"(?:image|picture|photo|photograph|scene)"
_THERE = (
    "(?:visible|present|shown|seen|found|pictured|depicted|featured|included|there|here|mentioned|"
    rf"in (?:this|the|that) {_PICTURE})"
)
_HOLD = r"(?:contain|show|include|have|feature|depict|display|appear to (?:contain|show|include|have))"
# "no doubt", "no longer": a negation of something else.
_NO = r"no (?!doubt|question|wonder|matter|longer|problem|need|reason|way to tell|less|more|fewer|other)"

# What denies whatever was asked for; counts in the first sentence, and in later ones where the object is named.
_DENIALS = re.compile(
    "|".join(
        (
            rf"\bi (?:do|can|could|did) not {_ADVERB}{_SEE}\b",
            rf"\bi (?:see|saw|find|found) {_NO}",
            rf"\b(?:i am |i was )?(?:unable|not able) to {_ADVERB}(?:{_SEE}|describe|provide)\b",
            r"\bi can not (?:describe|provide)\b",
            rf"\bthere (?:is|are|was|were|appears? to be|seems? to be) {_ADVERB}"
            rf"(?:{_NO}|not an? |not any |none\b|nothing )",
            r"\bthere (?:does|do) not (?:appear|seem) to be\b",
            rf"\b{_PICTURE} (?:[^,;]{{0,60}} (?:and|but) )?(?:does|did|do) not {_ADVERB}{_HOLD}\b",
            rf"\b{_PICTURE} (?:contains|shows|includes|has|features|depicts) {_NO}",
            rf"\b(?:it|they|one|such an? \w+) (?:is|are|was|were|can|could) not (?:be )?{_ADVERB}{_THERE}\b",
        )
    )
)
_BARE = re.compile(r"\W*(?:no|nope|none|n/a|nothing)\W*(?:$|[.,!;:–—-]\W*)")


def refuses(text: str, rule: str, name: str = "") -> bool | None:
    """Whether an answer denies that the object is in the image.

    The rule `source` reads "piano " and "casino " as denials, and neither "I can't see", nor a bare "No", nor anything
    with a typographic apostrophe (source: NANInithin/Compact-VLM 53896aa, benchmark_sft.py).

    The rule `strict` reads a denial in a bare no at the beginning; in a first sentence that says that something is not
    seen or not there, whatever it calls it; and in a later one that says so of the object by its name. "There is no
    doubt" is none, and neither is "There are no people." after a description of something else.

    Args:
        text: the answer.
        rule: a name of `RULES`.
        name: the object that was asked for; only `strict` looks at it.

    Returns:
        None where the rule cannot tell: for `strict`, a text without a word.

    Raises:
        ValueError: for an unknown rule.
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule for refusals: got {rule!r}; expected one of {', '.join(RULES)}. Choose one.")
    return _READERS[rule](text, name)


def _source(text: str, name: str) -> bool:
    lowered = text.lower()
    return any(part in lowered for part in _SUBSTRINGS)


def _strict(text: str, name: str) -> bool | None:
    plain = text.casefold()
    for pattern, replacement in _WRITTEN_OUT:
        plain = pattern.sub(replacement, plain)
    if not any(map(str.isalnum, plain)):
        return None
    if _BARE.match(plain):
        return True
    named = _named(name)
    for number, sentence in enumerate(_SENTENCE.split(plain.strip())):
        mentioned = re.search(rf"\b{named}\b", sentence) is not None
        if (number == 0 or mentioned) and _DENIALS.search(sentence):
            return True
        if _of_the_object(named).search(sentence):
            return True
    return False


def _named(name: str) -> str:
    """A pattern for an object's name, in the singular or the plural; for no name one that matches nothing."""
    words = re.escape(name.casefold().strip())
    return rf"{words}(?:s|es)?" if words else r"(?!)"


def _of_the_object(named: str) -> re.Pattern[str]:
    """Sentences that deny an object by its name."""
    described = r"(?:such |visible |actual |clear |apparent |discernible |real )*"
    return re.compile(
        "|".join(
            (
                rf"\b(?:no|not an?|not any|without an?|without any) {described}{named}\b",
                rf"\b{named} (?:is|are|was|were|can|could|does|do) (?:not|also not) (?:be )?{_ADVERB}"
                rf"(?:{_THERE}|exist|appear)\b",
                rf"\b{named} (?:is|are) (?:absent|nowhere|missing(?! an?\b| the\b| its\b| some\b| one\b))\b",
            )
        )
    )


_READERS: dict[str, Callable[[str, str], bool | None]] = {"source": _source, "strict": _strict}
