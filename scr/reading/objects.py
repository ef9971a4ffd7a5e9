"""Which of the objects of CHAIR's list a text mentions, and where; nltk and TextBlob without any data of theirs."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import NamedTuple

from nltk.tokenize import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer
from textblob.en.inflect import singularize

from .places import Sentences, Span, lower_with_places, place_words, written_span

_PAIRS = (
    "motor bike, motor cycle, air plane, traffic light, street light, traffic signal, stop light, fire hydrant, "
    "stop sign, parking meter, suit case, sports ball, baseball bat, baseball glove, tennis racket, wine glass, "
    "hot dog, cell phone, mobile phone, teddy bear, hair drier, potted plant, bow tie, laptop computer, "
    "stove top oven, home plate, train track"
).split(", ")
_ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub")
# Two words, each in the singular that the rule gives it → the one word that they stand for. "stove top oven" never
# matches two words; "sports ball", "tennis racket" and "wine glass" never match because of those singulars ("sport",
# "tenni", "glas"): the official code has them, and for the last one the way around.
DOUBLE_WORDS: dict[str, str] = {
    **{pair: pair for pair in _PAIRS},
    **{f"{age} {animal}": animal for age in ("baby", "adult") for animal in _ANIMALS},
    "passenger jet": "jet",
    "passenger train": "train",
    "bow tie": "tie",
    "toilet seat": "toilet",
    "wine glas": "wine glass",
}

# Where TextBlob's singular is not that of the library `pattern`, which the official code used and TextBlob ported:
# seven known words, and with them every other word of the same three endings ("trolleybuses").
SINGULAR_WORDS: dict[str, str] = {"jeans": "jean", "as": "as", "christmas": "christmas"}
SINGULAR_ENDINGS: dict[str, str] = {"buses": "bus", "collies": "collies", "doggies": "doggies"}

# Of the abbreviations that nltk's English sentence splitter was trained to know, those that captions may hold. It needs
# a download; the same algorithm with these is installed already, and no answer may depend on what a user downloaded.
_ABBREVIATIONS = (
    "a.m aug ave bros co col corp d.c dec dr feb fri ft gen inc jan jr lt ltd mr mrs ms n.y nov oct ok p.m ph.d prof "
    "rep sen sept sr st tues u.k u.n u.s u.s.a v vs wed c d e f g h k l m n p r s t w"
).split()

_LETTER = re.compile(r"[^\W_]")


class Mentions(NamedTuple):
    """What a caption mentions: (word, node) of each mention, place and sentence of each; counts of words and sentences.

    Words are counted after merging. A sentence is what nltk splits off, if it holds a letter or a digit.
    """

    objects: list[tuple[str, str]]
    spans: list[Span]
    sentence_of: list[int]
    words: int
    sentences: int


def find_objects(sentences: Sentences) -> Mentions:
    """The objects among the words of a text.

    Source: `caption_to_words` of LisaAnne/Hallucination 6e4d33c, utils/chair.py, quirks included: "bus" becomes "bu"
    and is never found, "orange" may be a colour, negated mentions count.

    Args:
        sentences: the text's words as a rule reduces them, with their places; `singulars` is the official one.
    """
    words = [(word, span, number) for number, sentence in enumerate(sentences) for word, span in sentence]
    merged: list[tuple[str, Span, int]] = []
    position = 0
    while position < len(words):
        both = words[position : position + 2]
        double = " ".join(word for word, _, _ in both)
        if double in DOUBLE_WORDS:
            merged.append((DOUBLE_WORDS[double], (both[0][1][0], both[1][1][1]), both[0][2]))
        else:
            merged.append(both[0])
        position += 2 if double in DOUBLE_WORDS else 1
    # "the seat of the toilet" is no chair. Every seat goes, and the words are counted before.
    dropped = {"seat"} if {"toilet", "seat"} <= {word for word, _, _ in merged} else set()
    known = synonyms()
    mentions = [(word, span, number) for word, span, number in merged if word in known and word not in dropped]
    return Mentions(
        objects=[(word, known[word]) for word, _, _ in mentions],
        spans=[span for _, span, _ in mentions],
        sentence_of=[number for _, _, number in mentions],
        words=len(merged),
        sentences=sum(any(_LETTER.search(word) for word, _ in sentence) for sentence in sentences),
    )


@functools.cache
def synonyms() -> Mapping[str, str]:
    """Word → object, of the 80 lines of `synonyms.txt`.

    As in the official code the blank after ",  " belongs to the word, so that " motor bike" and " cheesecake" match
    nothing.
    """
    text = files(__package__).joinpath("synonyms.txt").read_text(encoding="utf-8")
    lines = [line.strip().split(", ") for line in text.splitlines() if line.strip()]
    return MappingProxyType({word: words[0] for words in lines for word in words})


@functools.lru_cache(maxsize=65_536)
def singular(word: str) -> str:
    """The singular of a lower-case word as the library `pattern` gives it, mistakes included."""
    if word in SINGULAR_WORDS:
        return SINGULAR_WORDS[word]
    for ending, replacement in SINGULAR_ENDINGS.items():
        if word.endswith(ending):
            return word.removesuffix(ending) + replacement
    return str(singularize(word))


def singulars(caption: str) -> list[list[tuple[str, Span]]]:
    """The singular of each word with its place, sentence by sentence."""
    lowered, places = lower_with_places(caption)
    sentences = _tokens(lowered)
    spans = iter(place_words(lowered, (word for sentence in sentences for word in sentence)))
    return [[(singular(word), written_span(next(spans), places)) for word in sentence] for sentence in sentences]


def _tokens(text: str) -> list[list[str]]:
    """What `nltk.word_tokenize` gives: words of each sentence, as only a sentence's last full stop is cut off."""
    sentences, words = _tokenizers()
    return [words.tokenize(sentence) for sentence in sentences.tokenize(text)]


@functools.cache
def _tokenizers() -> tuple[PunktSentenceTokenizer, NLTKWordTokenizer]:
    parameters = PunktParameters()
    parameters.abbrev_types.update(_ABBREVIATIONS)
    return PunktSentenceTokenizer(parameters), NLTKWordTokenizer()
