"""CHAIR: which of the objects that a caption mentions are not in the image."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from scr.reading import Mentions, Reader, Span, find_objects, singulars, synonyms

from ...records import RecordError, SampleRecord
from ...stats import SampleTable
from ..base import Grade, Sample, Scores, Task, score_ratios
from ..caption_places import found_objects
from .wordnet import lemmas

if TYPE_CHECKING:
    from ..coco import CocoData

RULES: dict[str, str] = {
    "chair": "the official one of 2018: singular forms, double words, synonyms, its quirks included",
    "wordnet": "OPERA's and lmms-eval's: tagged words and their lemmas in place of singular forms; needs data of nltk",
}
"""Name of a rule that finds objects in a caption → one line on what it does."""


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


@functools.lru_cache(maxsize=4_096)
def _find(caption: str, rule: str) -> Mentions:
    if rule not in _READERS:
        from scr import ConfigError

        raise ConfigError(
            f"unknown rule for objects in captions: got {rule!r}; expected one of {', '.join(RULES)}. Choose one."
        )
    return find_objects(_READERS[rule](caption))


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
_READERS: dict[str, Reader] = {"chair": singulars, "wordnet": lemmas}
