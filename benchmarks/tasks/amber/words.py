"""AMBER's words: the nouns of a response, and how similar two of them are."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import nltk

from scr.reading import Span, place_words

Similarity = Callable[[str, str], float]
"""Two words → how similar they are, 1 for equal ones. Not symmetric by force."""

NLTK_PACKAGES = ("punkt_tab", "averaged_perceptron_tagger_eng", "wordnet")
SPACY_MODEL = "en_core_web_lg"


class WordDataError(LookupError):
    """Something that finds or compares words is not installed; the message says how to get it."""


def nouns(text: str) -> list[str]:
    """The nouns of `placed_nouns`, without their places."""
    return [noun for noun, _ in placed_nouns(text)]


def placed_nouns(text: str) -> list[tuple[str, Span]]:
    """The nouns of a text in the singular, in their order, repetitions and capitals kept ("Dog" is another than "dog").

    Each has its place in the text, [start, end).

    Source: `extract_nouns` of junyangwang0410/AMBER 534babf, inference.py: the words that NLTK's tagger gives a tag
    that begins with NN, lemmatized as nouns by WordNet.

    Raises:
        WordDataError: where NLTK's data is missing.
    """
    try:
        tagged = nltk.pos_tag(nltk.word_tokenize(text))
        spans = place_words(text, (word for word, _ in tagged))
        return [(_lemma(word), span) for (word, tag), span in zip(tagged, spans, strict=True) if tag.startswith("NN")]
    except LookupError as error:
        if type(error) is not LookupError:  # an IndexError is one too, and another fault
            raise
        missing = next((name for name in NLTK_PACKAGES if name in str(error)), "its data")
        raise WordDataError(
            f"NLTK's data is missing: got no {missing}; expected {', '.join(NLTK_PACKAGES)}. "
            f"Run: python -m nltk.downloader {' '.join(NLTK_PACKAGES)}"
        ) from error


def exact(one: str, other: str) -> float:
    """1 for equal words, else 0: no vectors needed, and fewer nouns are recognised than by the official ones."""
    return float(one == other)


def from_table(table: Mapping[str, float]) -> Similarity:
    """Similarity looked up in a table: "a|b" → value, the two words sorted; equal words 1, a missing pair 0."""

    def similarity(one: str, other: str) -> float:
        return 1.0 if one == other else table.get("|".join(sorted((one, other))), 0.0)

    return similarity


def from_spacy(model: str = SPACY_MODEL) -> Similarity:
    """The official similarity: of spaCy's word vectors. Values depend on the version of the vectors.

    Raises:
        WordDataError: where spaCy or the vectors are not installed.
    """
    install = f"pip install spacy && python -m spacy download {model}"
    try:
        # By name, so that nothing but this call depends on it.
        loaded: Any = importlib.import_module("spacy").load(model)
    except (ImportError, OSError) as error:
        raise WordDataError(
            f"spaCy's vectors are not installed: got {type(error).__name__}: {error}; expected spacy and {model}. "
            f"Run: {install}"
        ) from error
    document = functools.cache(loaded)

    @functools.cache
    def similarity(one: str, other: str) -> float:
        return float(document(one).similarity(document(other)))

    return similarity


@functools.lru_cache(maxsize=65_536)
def _lemma(word: str) -> str:
    return str(nltk.stem.WordNetLemmatizer().lemmatize(word))
