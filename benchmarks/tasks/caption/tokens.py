"""Words of captions, nearly as the Stanford PTBTokenizer cuts them that published caption scores were made with.

The official scorer starts a Java program for this. Here it is one regular expression, written from what that program
does to captions; on plain captions both agree to the word (see tests/test_caption_metrics.py), on rare text they may
not: telephone numbers, unusual abbreviations, emoji.
"""

from __future__ import annotations

import re
from collections.abc import Callable

RULES: dict[str, str] = {
    "ptb": "like pycocoevalcap 1.2: its slip included, a bracket stays as the word '-lrb-' or '-rrb-'",
    "plain": "ours: as ptb, but brackets, symbols and every other token without a letter or digit are dropped",
}
"""Name of a rule → one line on what it does."""

# Dropped by pycocoevalcap 1.2, tokenizer/ptbtokenizer.py. "-LRB-" and the other brackets stand in its list in capitals,
# and the text was made lower case before: they stay.
_DROPPED = frozenset(["''", "'", "``", "`", '"', ".", "?", "!", ",", ":", "-", "--", "---", "----", "...", ";"])
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_SPELLINGS = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛‹›", "'"),
        **dict.fromkeys("“”„«»", '"'),
        **dict.fromkeys("–—", "--"),
        **dict.fromkeys("\n\r\t\u200b\u200c\u200d\u2060\ufeff\ufe0f", " "),
        "…": "...",
        "½": " 1/2 ",
        "¼": " 1/4 ",
        "¾": " 3/4 ",
        "€": "$",
        "£": "#",
        "¢": " cents ",
        "\u00ad": None,
    }
)

# Abbreviations that keep their full stop; those of the second row only before a number; a single letter not before a
# word that likely begins a sentence.
_ABBREVIATIONS = (
    "mr mrs ms messrs dr prof rev hon gov sen rep gen col lt sgt capt cmdr maj pvt st mt ft ave blvd rd ln sq dept est "
    "jr sr vs etc inc co corp ltd bros al alex wm jos cie ph.d jan feb mar apr jun jul aug sep sept oct nov dec mon "
    "tue tues wed thu thurs fri".split()
)
_BEFORE_NUMBERS = "no nos fig figs p pp art prop".split()
_STARTERS = "A An The It He She They We You I This That These Those There In On At And But With".split()

_LETTER = r"[^\W\d_]"
_ALNUM = r"[^\W_²³¹]"
_CORE = rf"{_ALNUM}+(?:(?:[-/_]|(?<={_LETTER})[.!?'](?={_LETTER})|(?<=[A-Z])&(?=[A-Z])|(?<=\d)[.,:](?=\d)){_ALNUM}+)*"
_TOKEN = re.compile(
    "|".join(
        [
            r"(?:https?://|www\.)\S*[^\s.,;:!?'\")\]]",
            r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
            r"</?[A-Za-z][A-Za-z0-9]*\s?/?>",
            r"(?<![\w&])[#@][A-Za-z_]\w*",
            rf"(?<!\w)(?i:{'|'.join(map(re.escape, _ABBREVIATIONS))})\.(?!\w)",
            rf"(?<!\w)(?i:{'|'.join(_BEFORE_NUMBERS)})\.(?=\s\d)",
            r"(?<!\w)(?:[A-Za-z]\.){2,}(?!\w)",
            r"(?<!\w)(?:[A-Za-z]\.)+[A-Za-z](?![\w'])",
            rf"(?<![\w'])[A-Za-z]\.(?!\w|\s+(?:{'|'.join(_STARTERS)})\b)",
            r"'\d\ds?(?![\w\"'])",
            r"[<>]?(?:(?<!\w):|[;=])[-o*']?[()DPdpO\\{@|\[\]](?![A-Za-z])",
            r"'(?i:cause|em|til|till|n')(?!\w)",
            r"'(?i:t)(?=(?i:is|was)(?!\w))",
            r"(?<!\w)(?i:ol')(?!\w)",
            r"'(?i:s|m|d|re|ve|ll)(?!\w)",
            r"(?<!\w)[-+]?\.?\d+(?:[.,:/]\d+)*(?![\w/-])",
            _CORE,
            r"[!?]+|-{5,}|-+|\.+|\*+|_+|#+|<+|>+|~+|`+",
            r"\S",
        ]
    )
)
_CLITIC = re.compile(r"(.+?)(n't|'(?:s|m|d|re|ve|ll))", re.DOTALL)
_TWO_WORDS = {
    "cannot": ["can", "not"],
    "gonna": ["gon", "na"],
    "gotta": ["got", "ta"],
    "wanna": ["wan", "na"],
    "gimme": ["gim", "me"],
    "lemme": ["lem", "me"],
    "y'all": ["y'", "all"],
}


def tokenize(text: str, rule: str = "ptb") -> list[str]:
    """The words of a caption, in lower case, without punctuation.

    `tokenize("The dog's bone (old).")` is `["the", "dog", "'s", "bone", "-lrb-", "old", "-rrb-"]`.

    Source: pycocoevalcap 1.2, tokenizer/ptbtokenizer.py (PTBTokenizer -preserveLines -lowerCase, then its list of
    punctuation dropped); newlines count as blanks.

    Args:
        text: the caption, raw.
        rule: a name of `RULES`.

    Raises:
        ValueError: for an unknown rule.
    """
    if rule not in _TOKENIZERS:
        raise ValueError(f"unknown rule for words: got {rule!r}; expected one of {', '.join(RULES)}. Choose one.")
    return _TOKENIZERS[rule](text)


def _ptb(text: str) -> list[str]:
    words: list[str] = []
    for match in _TOKEN.finditer(text.translate(_SPELLINGS)):
        token = match[0].lower()
        if token in _DROPPED or not token.strip(".`"):
            continue
        if token[-1] in _BRACKETS and len(token) < 5:  # a bracket, or a face
            words.append(token[:-1] + _BRACKETS[token[-1]])
        elif len(token) > 1 or ord(token) <= 0xFFFF:  # what is beyond, emoji above all, the program cannot read
            words += _split(token)
    return words


def _plain(text: str) -> list[str]:
    brackets = set(_BRACKETS.values())
    return [word for word in _ptb(text) if word not in brackets and any(map(str.isalnum, word))]


def _split(token: str) -> list[str]:
    """A word and the clitics at its end: "shouldn't've" → "should", "n't", "'ve"."""
    endings: list[str] = []
    while (match := _CLITIC.fullmatch(token)) is not None:
        token = match[1]
        endings.insert(0, match[2])
    return [*_TWO_WORDS.get(token, [token]), *endings]


_TOKENIZERS: dict[str, Callable[[str], list[str]]] = {"ptb": _ptb, "plain": _plain}
