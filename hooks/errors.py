"""The errors that reaching into a model can raise; `scr.errors` draws the whole tree."""

import difflib
from collections.abc import Iterable


class SCRError(Exception):
    """Base of every error that this project raises on purpose."""


class UnsupportedModelError(SCRError, TypeError):
    """The model is of a family that we do not know, or lacks a part that we need."""


class PromptLayoutError(SCRError, ValueError):
    """The image tokens of a prompt do not fit the patch grid that the model's configuration promises."""


class UnsupportedGenerationError(SCRError, ValueError):
    """A way of generating under which an edit of the prefill cannot be right."""


class NotFiniteError(SCRError, ArithmeticError):
    """What a model computes is NaN or infinite, by its inputs, its weights, or an overflow of its number format."""


def suggestion(name: str, known: Iterable[str], otherwise: str = "Choose one of them.") -> str:
    """What an error about an unknown name says last: "Did you mean 'x'?" where one is near, else `otherwise`."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {close[0]!r}?" if close else otherwise
