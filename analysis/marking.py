"""Which words of an answer are hallucinated, as far as the records tell."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ._benchmarks import SampleRecord

_NAME_WORDS = 3  # "wine glass", "sports ball": an object's name has no more words, a reference caption has


class Piece(NamedTuple):
    """A part of a text."""

    text: str
    hallucinated: bool


def object_names(samples: Iterable[SampleRecord]) -> frozenset[str]:
    """All object names in the targets of captions; empty where the targets are no lists of names."""
    names: set[str] = set()
    for sample in samples:
        if not isinstance(sample.target, list) or not all(isinstance(name, str) for name in sample.target):
            return frozenset()
        if any(len(name.split()) > _NAME_WORDS for name in sample.target):
            return frozenset()
        names.update(name.lower() for name in sample.target if name.strip())
    return frozenset(names)


def mark_hallucinations(sample: SampleRecord, names: frozenset[str] = frozenset()) -> list[Piece]:
    """The output, cut where words are hallucinated.

    Of a yes about an absent object that is the "yes" (the whole output where it stands nowhere). Of a caption it is
    each of `names`, in the singular or with a regular plural, that its image's target lacks. Synonyms, and names
    that stand in no target, are not known here: a task's own rule can find more or fewer.

    Args:
        sample: the record.
        names: as `object_names` gives them, of all captions of the data set.
    """
    if sample.outcome == "fp":
        found = re.search(r"\byes\b", sample.output, re.IGNORECASE)
        start, end = found.span() if found else (0, len(sample.output))
        return _pieces(sample.output, [(start, end)])
    if sample.outcome is not None or not names or not isinstance(sample.target, list):
        return _pieces(sample.output, [])
    present = {str(name).lower() for name in sample.target}
    # The longest first: a "hot dog" is no dog.
    forms = {form: name for name in names for form in _forms(name)}
    pattern = "|".join(re.escape(form) for form in sorted(forms, key=lambda form: (-len(form), form)))
    found_names = re.finditer(rf"(?<!\w)(?:{pattern})(?!\w)", sample.output, re.IGNORECASE)
    return _pieces(sample.output, [one.span() for one in found_names if forms[one.group().lower()] not in present])


def _forms(name: str) -> tuple[str, ...]:
    plural = f"{name[:-1]}ies" if re.search(r"[^aeiou]y$", name) else f"{name}es"
    return name, f"{name}s", plural


def _pieces(text: str, spans: list[tuple[int, int]]) -> list[Piece]:
    pieces, last = [], 0
    for start, end in spans:
        pieces += [Piece(text[last:start], False), Piece(text[start:end], True)]
        last = end
    return [piece for piece in (*pieces, Piece(text[last:], False)) if piece.text]
