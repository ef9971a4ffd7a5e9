"""How text that came from records stands in each kind of file, so that it is text there and nothing else."""

from __future__ import annotations

import re

from scr.pages.escaping import for_csv as for_csv
from scr.pages.escaping import printable as printable

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "→": r"$\rightarrow$", "×": r"$\times$",
    "−": "$-$", "λ": r"$\lambda$", "≤": r"$\leq$", "≥": r"$\geq$", "<": r"$<$", ">": r"$>$", "…": r"\ldots{}",
    "·": r"$\cdot$", "±": r"$\pm$", "Δ": r"$\Delta$",
    # After the \\ of the row before, these would be an option of it.
    "[": "{[}", "*": "{*}",
}  # fmt: skip
# What begins a tag, a comment or an address in angle brackets; "p < 0.05" begins none.
_TAG = re.compile(r"<(?=[A-Za-z/!?])")


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
