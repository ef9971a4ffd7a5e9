"""The words of a caption as OPERA and lmms-eval read them: tagged, then reduced to WordNet's lemmas.

Unlike the singular forms of 2018 it finds "bus" and "ties". But of several lemmas the shortest counts, so "men" stays
"men" (the work force) and "vases" becomes "vas": neither is found. And the lemma of a verb can be an object ("skiing").
It needs three resources of nltk that nltk does not ship.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import nltk
from nltk.stem import WordNetLemmatizer
from nltk.tag.perceptron import PerceptronTagger
from nltk.tokenize import NLTKWordTokenizer, PunktTokenizer

from scr.reading import Span, lower_with_places, place_words, written_span

RESOURCES: dict[str, str] = {
    "punkt_tab": "tokenizers/punkt_tab/english",
    "averaged_perceptron_tagger_eng": "taggers/averaged_perceptron_tagger_eng",
    "wordnet": "corpora/wordnet",
}
"""Name of a resource for nltk's downloader → where nltk keeps it."""

# First letter of a Penn Treebank tag → WordNet's part of speech; every other word is taken for a noun.
_PARTS = {"J": "a", "V": "v", "N": "n", "R": "r"}


class _Tools(NamedTuple):
    sentences: Callable[[str], Sequence[str]]
    words: Callable[[str], Sequence[str]]
    tag: Callable[[Sequence[str]], Sequence[tuple[str, str]]]
    lemma: Callable[[str, str], str]


def lemmas(caption: str) -> list[list[tuple[str, Span]]]:
    """The lemmas of a caption's words, in lower case, with the words' places in it, sentence by sentence.

    Source: `caption_to_words` of OPERA 61426ef, chair.py, and of lmms-eval 0.7.3, tasks/coco_cap_chair/utils.py:
    `nltk.word_tokenize`, `nltk.pos_tag` of the whole caption, `WordNetLemmatizer` with the tag's part of speech.

    Raises:
        ConfigError: where a resource of nltk is not installed, with the command that downloads them.
    """
    tools = _tools()
    lowered, places = lower_with_places(caption)
    sentences = [list(tools.words(sentence)) for sentence in tools.sentences(lowered)]
    spans = iter(place_words(lowered, (word for words in sentences for word in words)))
    # The tagger sees the caption as one sentence, as there: a word's tag can depend on the words before it.
    tagged = iter(tools.tag([word for words in sentences for word in words]))
    found = []
    for words in sentences:
        pairs = [next(tagged) for _ in words]
        lemma_of = (tools.lemma(word, _PARTS.get(tag[:1], "n")) for word, tag in pairs)
        found.append([(lemma, written_span(next(spans), places)) for lemma in lemma_of])
    return found


@functools.cache
def _tools() -> _Tools:
    missing = [name for name, place in RESOURCES.items() if not _is_there(place)]
    if missing:
        from scr import ConfigError

        raise ConfigError(
            f"the rule 'wordnet' needs data of nltk: got no {', '.join(missing)}; expected {', '.join(RESOURCES)}. "
            f"Run `python -m nltk.downloader {' '.join(missing)}`, or set NLTK_DATA to the folder that holds them."
        )
    lemmatizer: Any = WordNetLemmatizer()
    return _Tools(
        sentences=PunktTokenizer("english").tokenize,
        words=NLTKWordTokenizer().tokenize,
        tag=PerceptronTagger(lang="eng").tag,
        lemma=functools.lru_cache(maxsize=65_536)(lemmatizer.lemmatize),
    )


def _is_there(place: str) -> bool:
    # The downloader leaves some as a folder, some as an archive; nltk reads both.
    for name in (place, f"{place}.zip"):
        try:
            nltk.data.find(name)
        except LookupError:
            continue
        return True
    return False
