"""How objects are shown on a line, and what papers call our fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WIDTH = 100
"""Characters of a line."""

_LETTERS = {"alpha": "α", "beta": "β", "gamma": "γ", "lambda": "λ", "lam": "λ", "lmbda": "λ"}


def one_line(name: str, *shown: str, end: str = ")", **fields: Any) -> str:
    """`name(shown, field=value, ...)`, cut off with "…" where a line is full.

    Args:
        name: of the class.
        *shown: what comes first, as it is.
        end: what stands at the end, whatever is cut off.
        **fields: what comes after it.
    """
    text = f"{name}(" + ", ".join([*shown, *(f"{field}={value!r}" for field, value in fields.items())])
    return text + end if len(text + end) <= WIDTH else text[: WIDTH - len(end) - 1] + "…" + end


def named_by_a_paper(given: str, symbols: Mapping[str, str]) -> str | None:
    """A sentence with our name of what papers call `given`, such as "SCR's λ is `scale`."; None where none does.

    Args:
        given: a symbol, spelt out or not: "λ", "lambda_", "lam", "K".
        symbols: as `MethodConfig.symbols`.
    """
    spelt = given.strip("_").lower()
    symbol = _LETTERS.get(spelt, spelt)
    return next(
        (f"{whose} is `{ours}`." for whose, ours in symbols.items() if whose.split()[-1].lower() == symbol), None
    )
