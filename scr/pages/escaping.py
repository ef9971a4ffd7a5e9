"""How text that came from files and models stands in others, so that it is text there and nothing else."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

# What neither a font nor XML has: controls, lone surrogates of undecodable bytes, separators of lines.
_UNSEEN = ("Cc", "Cs", "Zl", "Zp")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?%?")


def printable(value: Any) -> Any:
    """A text in which all can be seen: what cannot is written as its escape; tabs and line breaks are one blank.

    Args:
        value: a text, or lists and dictionaries of JSON, whose texts are each taken; anything else is left as it is.
    """
    if isinstance(value, str):
        return value if value.isprintable() else "".join(map(_seen, value))
    if isinstance(value, dict):
        return {printable(name): printable(one) for name, one in value.items()}
    return [printable(one) for one in value] if isinstance(value, list) else value


def for_csv(text: str) -> str:
    """A cell of CSV that no spreadsheet takes for a formula: one that begins like it has an apostrophe before it."""
    text = printable(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) and not _NUMBER.fullmatch(text) else text


def _seen(letter: str) -> str:
    if letter in "\t\n\r":
        return " "
    if unicodedata.category(letter) not in _UNSEEN:
        return letter
    return letter.encode("ascii", "backslashreplace").decode() if ord(letter) > 127 else f"\\x{ord(letter):02x}"
