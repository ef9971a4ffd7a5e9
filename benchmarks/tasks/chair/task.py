"""CHAIR: which of the objects that a caption mentions are not in the image."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from nltk.tokenize import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer
from textblob.en.inflect import singularize

from ...records import RecordError, SampleRecord
from ...stats import SampleTable
from ..base import Grade, Sample, Scores, Task, score_ratios
from ..caption_places import Reader, Span, found_objects, lower_with_places, place_words, written_span
from .wordnet import lemmas

if TYPE_CHECKING:
    from ..coco import CocoData

RULES: dict[str, str] = {
    "chair": "the official one of 2018: singular forms, double words, synonyms, its quirks included",
    "wordnet": "OPERA's and lmms-eval's: tagged words and their lemmas in place of singular forms; needs data of nltk",
}
"""Name of a rule that finds objects in a caption → one line on what it does."""

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


class _Found(NamedTuple):
    """What a caption mentions: (word, node) of each mention, place and sentence of each; counts of words and sentences.

    Words are counted after merging. A sentence is what nltk splits off, if it holds a letter or a digit.
    """

    objects: list[tuple[str, str]]
    spans: list[Span]
    sentence_of: list[int]
    words: int
    sentences: int


class Chair(Task):
    """Captions of images, and the share of the objects in them that are not there.

    Metrics, pooled over captions as the official code does: `chair_s` = captions with a hallucinated mention over all
    captions; `chair_i` = hallucinated mentions over all mentions of the 80 objects, repetitions counted; `recall` =
    different objects rightly mentioned over all objects in the images (source: the standalone CHAIR, Maxlinn 640c507);
    `length` = words per caption, punctuation included, double words merged (source: OPERA 61426ef). Beside them stands
    `chair_sentence` = sentences with a hallucinated mention over all sentences: where captions have several sentences
    `chair_s` grows with their number, and this does not. It is not official.

    The published protocol allows 512 new tokens. Here it is 128, which no caption of the lab reaches and few of others
    do: models end a caption by themselves. For published numbers set 512; the setting stands in every record.
    """

    name = "chair"
    version = 1
    paper = "Rohrbach et al. 2018, Object Hallucination in Image Captioning, arXiv:1809.02156"
    checked_against = "LisaAnne/Hallucination 6e4d33c: its object sets of the 29 sample images with references"
    rule = "chair"
    kind = "caption"
    max_new_tokens = 128
    options: ClassVar[Mapping[str, int]] = MappingProxyType({"img_num": 500})
    prompt: ClassVar[str] = "Please describe this image in detail."

    def samples(self, data: CocoData, seed: int) -> list[Sample]:
        """One caption for each of at most 500 images, drawn at random among those with reference captions.

        The target is what is in the image: its instances' categories and what its reference captions mention.

        Raises:
            ConfigError: for a category that is none of COCO's 80 objects, or a data set without captions.
        """
        # Without references half of the ground truth is missing, and right mentions would count as hallucinated.
        from ..coco import draw_described  # needs torch, and scoring does not

        return [
            Sample(
                id=str(image.id),
                image=image.path,
                prompt=self.prompt,
                target=ground_truth(data.objects(image.id), data.captions(image.id), self.rule),
                facts=data.facts(image.id),
            )
            for image in draw_described(data, seed, self.options["img_num"])
        ]

    def grade(self, target: Any, output: str) -> Grade:
        """What was found in a caption, which is not right or wrong as a whole.

        Raises:
            RecordError: for a target that is no list of objects.
        """
        return Grade(None, None, found_objects(output, place_objects(output, self.rule), _objects(target)))

    def table(self, records: Sequence[SampleRecord]) -> SampleTable:
        """What each caption contributes to the metrics; `correct` is a caption without a hallucinated mention."""
        rows = [_count(record, self.rule) for record in records if record.error is None]
        one = np.ones(len(rows))
        counts = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in _COUNTS}
        pairs = {
            "chair_s": (counts["hallucinated_captions"], one),
            "chair_i": (counts["hallucinated_mentions"], counts["mentions"]),
            "recall": (counts["found_objects"], counts["target_objects"]),
            "length": (counts["words"], one),
            "chair_sentence": (counts["hallucinated_sentences"], counts["sentences"]),
        }
        answered = [record for record in records if record.error is None]
        return SampleTable(
            ids=[record.id for record in answered],
            images=[record.image for record in answered],
            metrics=tuple(pairs),
            numerators=np.stack([pair[0] for pair in pairs.values()], axis=1),
            denominators=np.stack([pair[1] for pair in pairs.values()], axis=1),
            correct=counts["hallucinated_captions"] == 0,
            answers=[record.output for record in answered],
        )

    def score(self, records: Sequence[SampleRecord]) -> Scores:
        """The scores of a run.

        Counts: captions, failed (samples with an error, left out of all else), mentions, hallucinated_mentions,
        hallucinated_captions, found_objects, target_objects, words, sentences, hallucinated_sentences.
        """
        scores = score_ratios(self.table(records), _UNDEFINED)
        rows = [_count(record, self.rule) for record in records if record.error is None]
        totals = {name: sum(row[name] for row in rows) for name in _COUNTS}
        return Scores(
            metrics=scores.metrics,
            counts={"captions": len(rows), "failed": len(records) - len(rows), **totals},
            intervals=scores.intervals,
            reasons=scores.reasons,
            units={"length": "words"},
        )


class ChairWordnet(Chair):
    """CHAIR by the rule of OPERA and lmms-eval, in captions as in the references that the target is made of."""

    name = "chair_wordnet"
    version = 1
    checked_against = "lmms-eval 0.7.3: its words, objects and three metrics on messy captions"
    rule = "wordnet"


_COUNTS = (
    *("mentions", "hallucinated_mentions", "hallucinated_captions", "found_objects", "target_objects", "words"),
    *("sentences", "hallucinated_sentences"),
)
_UNDEFINED = {
    "chair_s": "no captions",
    "chair_i": "no caption mentions an object",
    "recall": "there is no object in any image",
    "length": "no captions",
    "chair_sentence": "no caption has a sentence",
}


def extract_objects(caption: str, rule: str = "chair") -> list[tuple[str, str]]:
    """The objects that a caption mentions.

    `extract_objects("Two dogs on a sofa")` is `[("dog", "dog"), ("sofa", "couch")]`.

    Source: `caption_to_words` of LisaAnne/Hallucination 6e4d33c, utils/chair.py, quirks included: "bus" becomes "bu"
    and is never found, "orange" may be a colour, negated mentions count. The rule `wordnet` differs in how words are
    reduced alone: see `benchmarks.tasks.chair.wordnet`.

    Args:
        caption: the text.
        rule: a name of `RULES`.

    Returns:
        (word as merged, its object) of each mention, in the order of the text, repetitions kept.

    Raises:
        ConfigError: for an unknown rule, or `wordnet` without nltk's data.
    """
    return list(_find(caption, rule).objects)


def place_objects(caption: str, rule: str = "chair") -> list[tuple[Span, str]]:
    """Where each mention of `extract_objects` stands in the caption, [start, end), and its object.

    Raises:
        ConfigError: as `extract_objects`.
    """
    found = _find(caption, rule)
    return [(span, node) for span, (_, node) in zip(found.spans, found.objects, strict=True)]


def ground_truth(categories: Sequence[str], captions: Sequence[str], rule: str = "chair") -> list[str]:
    """The objects of an image, sorted: those of its instances and those that its reference captions mention.

    Args:
        categories: names of the instances' categories.
        captions: the reference captions.
        rule: as in `extract_objects`.

    Raises:
        ConfigError: for a category that is none of COCO's 80 objects, or as `extract_objects`.
    """
    known = synonyms()
    strange = [name for name in categories if name not in known]
    if strange:
        from scr import ConfigError

        raise ConfigError(
            f"CHAIR does not know this category: got {strange[0]!r}; expected one of COCO's 80. "
            "Use annotations with COCO's category names."
        )
    mentioned = [node for caption in captions for _, node in extract_objects(caption, rule)]
    return sorted({known[name] for name in categories} | set(mentioned))


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


@functools.lru_cache(maxsize=4_096)
def _find(caption: str, rule: str) -> _Found:
    if rule not in _READERS:
        from scr import ConfigError

        raise ConfigError(
            f"unknown rule for objects in captions: got {rule!r}; expected one of {', '.join(RULES)}. Choose one."
        )
    sentences = _READERS[rule](caption)
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
    return _Found(
        objects=[(word, known[word]) for word, _, _ in mentions],
        spans=[span for _, span, _ in mentions],
        sentence_of=[number for _, _, number in mentions],
        words=len(merged),
        sentences=sum(any(_LETTER.search(word) for word, _ in sentence) for sentence in sentences),
    )


def _singulars(caption: str) -> list[list[tuple[str, Span]]]:
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


def _objects(target: Any, name: str = "") -> Sequence[str]:
    if not isinstance(target, list | tuple) or not all(isinstance(one, str) for one in target):
        of = f"caption {name!r}" if name else "a caption"
        raise RecordError(f"the target of {of} is wrong: got {target!r}; expected a list of objects. Run it again.")
    return target


def _count(record: SampleRecord, rule: str) -> dict[str, int]:
    target = _objects(record.target, record.id)
    found = _find(record.output, rule)
    nodes = [node for _, node in found.objects]
    wrong = [number for node, number in zip(nodes, found.sentence_of, strict=True) if node not in target]
    return {
        "mentions": len(nodes),
        "hallucinated_mentions": len(wrong),
        "hallucinated_captions": int(bool(wrong)),
        "found_objects": len(set(nodes).intersection(target)),
        "target_objects": len(set(target)),
        "words": found.words,
        "sentences": found.sentences,
        "hallucinated_sentences": len(set(wrong)),
    }


# Name of a rule → the words of a caption, reduced to what the synonyms hold, with their places, sentence by sentence.
_READERS: dict[str, Reader] = {"chair": _singulars, "wordnet": lemmas}
