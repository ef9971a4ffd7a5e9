"""How text that came from records stands in each kind of file, so that it is text there and nothing else."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "→": r"$\rightarrow$", "×": r"$\times$",
    "−": "$-$", "λ": r"$\lambda$", "≤": r"$\leq$", "≥": r"$\geq$", "<": r"$<$", ">": r"$>$", "…": r"\ldots{}",
    "·": r"$\cdot$", "±": r"$\pm$", "Δ": r"$\Delta$",
    # After the \\ of the row before, these would be an option of it.
    "[": "{[}", "*": "{*}",
}  # fmt: skip
# What neither a font nor XML has: controls, lone surrogates of undecodable bytes, separators of lines.
_UNSEEN = ("Cc", "Cs", "Zl", "Zp")
# What begins a tag, a comment or an address in angle brackets; "p < 0.05" begins none.
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
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


def for_markdown(text: str) -> str:
    """A text on one line of Markdown, in a table or outside: no cell ends in it, no HTML, link or picture begins."""
    text = printable(text).replace("\\", "\\\\").replace("|", "\\|").replace("](", "]\\(")
    return _TAG.sub("&lt;", text)


def for_latex(text: str) -> str:
    """A text for LaTeX, all of whose letters are printed."""
    return "".join(_LATEX.get(letter, letter) for letter in printable(text))


def for_name(text: str) -> str:
    """A text as the name of a file or a label: ASCII letters and digits, points and underscores, "-" for the rest."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.") or "unnamed"


def _seen(letter: str) -> str:
    if letter in "\t\n\r":
        return " "
    if unicodedata.category(letter) not in _UNSEEN:
        return letter
    return letter.encode("ascii", "backslashreplace").decode() if ord(letter) > 127 else f"\\x{ord(letter):02x}"
