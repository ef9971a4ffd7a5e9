"""Which words of an answer are hallucinated, as its grade in the record says."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

from .._benchmarks import SampleRecord, hallucinated_mentions


class MarkedText(NamedTuple):
    """A part of a text."""

    text: str
    hallucinated: bool


def object_names(samples: Iterable[SampleRecord]) -> frozenset[str]:
    """All objects that graded captions mention or miss."""
    names: set[str] = set()
    for sample in samples:
        if sample.found is not None:
            names.update(mention["node"] for mention in sample.found["mentions"])
            names.update(sample.found["missed"])
    return frozenset(names)


def mark_hallucinations(sample: SampleRecord, names: Collection[str] | None = None) -> list[MarkedText]:
    """The output, cut where words are hallucinated.

    Of a yes about an absent object that is the "yes" (the whole output where it stands nowhere). Of a caption it is
    each mention that the task's own rule found of an object that is not there; nothing where the record has no grade.

    Args:
        sample: the record.
        names: the objects whose mentions are marked; None for all.
    """
    if sample.outcome == "fp":
        found = re.search(r"\byes\b", sample.output, re.IGNORECASE)
        return _pieces(sample.output, [found.span() if found else (0, len(sample.output))])
    mentions = [] if sample.found is None else hallucinated_mentions(sample.found)
    marked = [mention for mention in mentions if names is None or mention["node"] in names]
    return _pieces(sample.output, [(mention["start"], mention["end"]) for mention in marked])


def _pieces(text: str, spans: list[tuple[int, int]]) -> list[MarkedText]:
    pieces, last = [], 0
    for start, end in spans:
        pieces += [MarkedText(text[last:start], False), MarkedText(text[start:end], True)]
        last = end
    return [piece for piece in (*pieces, MarkedText(text[last:], False)) if piece.text]
