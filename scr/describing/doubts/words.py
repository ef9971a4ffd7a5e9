"""The content words of a text: objects of CHAIR's list and, where nltk's tagger has its data, all other nouns."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import nltk
from nltk.tag.perceptron import PerceptronTagger

from ...reading import Span, find_objects, singular, singulars

TAGGER = "taggers/averaged_perceptron_tagger_eng"
"""Where nltk keeps the data of its tagger; `python -m nltk.downloader averaged_perceptron_tagger_eng` fetches it."""

# Nouns that speak of the picture, not of what is in it.
_OF_THE_PICTURE = frozenset(
    "image picture photo photograph scene view background foreground side left right top bottom middle center centre "
    "front back corner edge distance area part kind type variety number couple group pair lot".split()
)

Tag = Callable[[Sequence[str]], Sequence[tuple[str, str]]]


class ContentWord(NamedTuple):
    """A noun of a text.

    Attributes:
        span: its place, in characters.
        noun: the word in its singular, as a question asks for it; two words such as "wine glass" are one.
        category: the object of CHAIR's list that it stands for; None for another noun.
    """

    span: Span
    noun: str
    category: str | None


def content_words(text: str) -> list[ContentWord]:
    """The nouns of a text, in its order; without the tagger's data those of CHAIR's list alone."""
    sentences = singulars(text)
    found = find_objects(sentences)
    words = [
        ContentWord(span, noun, category) for span, (noun, category) in zip(found.spans, found.objects, strict=True)
    ]
    taken = [word.span for word in words]
    for span in _nouns([span for sentence in sentences for _, span in sentence], text):
        if not any(start < span[1] and span[0] < end for start, end in taken):
            noun = singular(text[slice(*span)].lower())
            words += [] if noun in _OF_THE_PICTURE else [ContentWord(span, noun, None)]
    return sorted(words)


def _nouns(spans: Sequence[Span], text: str) -> list[Span]:
    if (tag := _tagger()) is None:
        return []
    tagged = tag([text[slice(*span)] for span in spans])
    # Proper nouns (NNP) are names: whether "Paris" is in the image is no question of what can be seen.
    return [span for span, (word, kind) in zip(spans, tagged, strict=True) if kind in ("NN", "NNS") and word.isalpha()]


@functools.cache
def _tagger() -> Tag | None:
    for place in (TAGGER, f"{TAGGER}.zip"):
        try:
            nltk.data.find(place)
        except LookupError:
            continue
        return PerceptronTagger(lang="eng").tag
    return None
