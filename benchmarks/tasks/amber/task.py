"""AMBER as tasks: the official queries as they are, a task for each part, and the scores of its answers.

The scores alone are in `benchmarks.tasks.amber.rule`. Here they are those of its rule `plain`: the official counts
without the constants and the rounding of the official tool, whose values `python -m benchmarks.score amber` gives.
"""

from __future__ import annotations

import dataclasses
import functools
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from scr.reading import Span

from ...records import Found, RecordError, SampleRecord
from ...stats import SampleTable
from ..base import Grade, Sample, Scores, Task
from ..files import OfficialData, digest, find_images, grouped, refuse_split, require_files
from ..yes_no import YesNoTask, count_outcomes, grade_again
from .rule import (
    CAPTION_RATES,
    GENERATIVE,
    KINDS,
    RATES,
    SUFFIXES,
    CaptionCount,
    Response,
    Words,
    found_nouns,
    judge_caption,
    score_responses,
    tabulate,
)
from .words import Similarity, WordDataError, exact, from_spacy, placed_nouns

PAPER = "Wang et al. 2023, AMBER, arXiv:2311.07397"
FILES = (
    "AMBER's data folder (junyangwang0410/AMBER): annotations.json, relation.json, safe_words.txt, "
    "query/query_all.json and its images in image/ or images/"
)
_KIND_OF = {suffixes[-1]: kind for kind, suffixes in KINDS.items()}


class Query(NamedTuple):
    """One query: its number, the image's file, the text, and its annotation."""

    number: int
    path: Path
    text: str
    annotation: dict[str, Any]


class _Amber(Task):
    """The official files, which all parts share."""

    paper = PAPER
    files = FILES
    part: ClassVar[str]

    @classmethod
    def open_data(cls, folder: Path, split: str | None) -> OfficialData[list[Query]]:
        """All queries with their annotations.

        Raises:
            ConfigError: for a file or an image that is missing, a broken row, or a query without annotation.
        """
        return _open(folder, split)


def _open(folder: Path, split: str | None) -> OfficialData[list[Query]]:
    from scr import ConfigError
    from scr.files import read_rows

    from ..scoring import field_of
    from .scorer import read_annotations

    refuse_split(split, "AMBER")
    path = folder / "query" / "query_all.json"
    read = [path, *(folder / name for name in ("annotations.json", "relation.json", "safe_words.txt"))]
    require_files(read, FILES)
    annotations = read_annotations(read[1])
    rows = [
        (
            field_of(row, "id", path, number, int),
            *(field_of(row, name, path, number) for name in ("image", "query")),
        )
        for number, row in enumerate(read_rows(path), start=1)
    ]
    numbers = [row[0] for row in rows]
    if sorted(numbers) != sorted(annotations):
        wrong = sorted(set(numbers) ^ set(annotations)) or [one for one in numbers if numbers.count(one) > 1]
        raise ConfigError(
            f"queries and annotations do not match: got id {wrong[:1]} of {path} and {read[1]}; expected each once in "
            "both. Use the official files."
        )
    images = find_images((row[1] for row in rows), [folder / "image", folder / "images"], FILES)
    content = [Query(number, images[image], text, annotations[number]) for number, image, text in rows]
    return OfficialData(folder=folder, sha256=digest(folder, read), content=content)


class AmberYesNo(YesNoTask):
    """Yes/no questions with AMBER's scores, in which "No" is the positive class; in the counts "yes" is, as everywhere.

    Only exactly "Yes" and "No" count, as officially; another answer is wrong and no No. Metrics, with the suffixes of
    the part and of its types: `accuracy`, `precision` = right No / answered No, `recall` = right No / truth no, `f1`.
    """

    rule = "amber"
    max_new_tokens = 32
    part: ClassVar[str]

    @abstractmethod
    def kind_of(self, name: str) -> str:
        """The official type of a question, a key of `benchmarks.tasks.amber.rule.KINDS`, by the sample's id."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics."""
        mine = [suffix for suffix in SUFFIXES if suffix == f"_{self.part}" or suffix.startswith(f"_{self.part}_")]
        return tuple(f"{rate}{suffix}" for suffix in mine for rate in RATES)

    def table(self, records: Sequence[SampleRecord]) -> SampleTable:
        """What each record contributes to the metrics, graded again from its output and target."""
        return tabulate(self._responses(records), self.metrics, [record.id for record in records])

    def score(self, records: Sequence[SampleRecord]) -> Scores:
        """The scores of a run. Counts: as `YesNoTask.score`."""
        scores = score_responses(self._responses(records), "plain", partial=True)
        return _chosen(scores, self.metrics, count_outcomes(grade_again(records, self.rule)))

    def _responses(self, records: Sequence[SampleRecord]) -> list[Response]:
        return [
            Response(record.image, self.kind_of(record.id), target=record.target, answer=record.answer)
            for record in grade_again(records, self.rule)
        ]


class _AmberQuestions(_Amber, AmberYesNo):
    version = 1
    checked_against = (
        "the official questions, and the plain rule of benchmarks.score amber on the same answers; no official image"
    )

    def samples(self, data: OfficialData[list[Query]], seed: int) -> list[Sample]:
        """The official questions of this part, grouped by image; nothing is drawn."""
        samples = []
        for query in data.content:
            suffixes = KINDS.get(query.annotation["type"], (GENERATIVE,))
            if suffixes[0] == self.part:
                name = f"{query.path.stem}-{suffixes[-1]}-{query.number}"
                target = query.annotation["truth"]
                samples.append(Sample(id=name, image=query.path, prompt=query.text, target=target))
        return grouped(samples)

    def kind_of(self, name: str) -> str:
        """The type, which the id holds: image-type-number.

        Raises:
            RecordError: for an id of another form, or of another part.
        """
        kind = _KIND_OF.get(name.rsplit("-", 2)[-2]) if name.count("-") > 1 else None
        if kind is None or KINDS[kind][0] != self.part:
            raise RecordError(
                f"a sample has a wrong id: got {name!r}; expected image-type-number, of the {self.part} questions. "
                "Run it again."
            )
        return kind


class AmberAttribute(_AmberQuestions):
    """The questions for states, numbers and actions."""

    name = "amber_attribute"
    part = "attribute"


class AmberExistence(_AmberQuestions):
    """The questions for objects, all of which are absent: "No" to everything is perfect."""

    name = "amber_existence"
    part = "existence"


class AmberRelation(_AmberQuestions):
    """The questions for relations between objects."""

    name = "amber_relation"
    part = "relation"


class AmberGenerative(_Amber):
    """AMBER's descriptions of 1,004 images, by the nouns in them; the official similarity, of spaCy's word vectors.

    The target holds the benchmark's words too, so that a run can be scored again without its files. Values depend on
    the version of the vectors. A description that failed is left out. No paper's number of tokens is official: 512
    leaves a description whole, and cut ones hallucinate less.

    Metrics: `chair`, `cover`, `hal` and `cog` as `benchmarks.tasks.amber.rule.score_responses`.
    """

    name = "amber_generative"
    version = 1
    checked_against = "benchmarks.score amber on the same answers and similarities; spaCy's vectors were not at hand"
    rule = "spacy"
    kind = "caption"
    max_new_tokens = 512
    part = GENERATIVE

    def samples(self, data: OfficialData[list[Query]], seed: int) -> list[Sample]:
        """The official queries, one per image; nothing is drawn.

        Raises:
            ConfigError: where what finds or compares words is not installed, or a word is not in the vocabulary.
        """
        from scr import ConfigError

        from .scorer import read_vocabulary

        related, safe = read_vocabulary(data.folder)
        _similarity(self.rule)
        _nouns("a dog")
        known = sorted(Words(related=related, safe=safe, similarity=exact).known)
        samples = []
        for query in data.content:
            row = query.annotation
            if row["type"] != GENERATIVE:
                continue
            unknown = [word for word in (*row["truth"], *row["hallu"]) if word not in related]
            if unknown:
                raise ConfigError(
                    f"a word of the annotations is unknown: got {unknown[0]!r} of id {query.number}; expected a line "
                    f"for it in {data.folder / 'relation.json'}. Use the official files."
                )
            target = {
                "truth": row["truth"],
                "hallu": row["hallu"],
                "related": {word: related[word] for word in (*row["truth"], *row["hallu"])},
                "safe": sorted(safe),
                "known": known,
            }
            name = f"{query.path.stem}-{query.number}"
            samples.append(Sample(id=name, image=query.path, prompt=query.text, target=target))
        return grouped(samples)

    def grade(self, target: Any, output: str) -> Grade:
        """What was found in a description, which is not right or wrong as a whole.

        Raises:
            RecordError: for a target that is not as `samples` makes it.
        """
        return Grade(None, None, _judge(target, output, _similarity(self.rule))[1])

    def table(self, records: Sequence[SampleRecord]) -> SampleTable:
        """What each description contributes; `correct` is one without a hallucinated noun."""
        answered = [record for record in records if record.error is None]
        table = tabulate(self._responses(answered), CAPTION_RATES, [record.id for record in answered])
        return dataclasses.replace(table, answers=[record.output for record in answered])

    def score(self, records: Sequence[SampleRecord]) -> Scores:
        """The scores of a run. Counts: captions, failed, and those of `score_responses` on nouns and objects."""
        answered = [record for record in records if record.error is None]
        scores = score_responses(self._responses(answered), "plain", partial=True)
        words = {name: count for name, count in scores.counts.items() if "_" in name or name == "nouns"}
        counts = {"captions": len(answered), "failed": len(records) - len(answered), **words}
        return _chosen(scores, CAPTION_RATES, counts)

    def _responses(self, records: Sequence[SampleRecord]) -> list[Response]:
        similarity = _similarity(self.rule) if records else exact
        return [_count(record, similarity) for record in records]


class AmberGenerativeExact(AmberGenerative):
    """The same, but words are similar only if they are equal: needs no vectors, and recognises fewer right nouns.

    Not comparable with published numbers.
    """

    name = "amber_generative_exact"
    version = 1
    checked_against = "benchmarks.score amber --similarity exact on the same answers; no official image"
    rule = "exact"


def _count(record: SampleRecord, similarity: Similarity) -> Response:
    return Response(record.image, GENERATIVE, _judge(record.target, record.output, similarity, record.id)[0])


def _judge(target: Any, output: str, similarity: Similarity, name: str = "") -> tuple[CaptionCount, Found]:
    try:
        truth, hallu, related, safe, known = (target[of] for of in ("truth", "hallu", "related", "safe", "known"))
        words = Words(related={**dict.fromkeys(known, ()), **related}, safe=frozenset(safe), similarity=similarity)
        nouns = _nouns(output)
        count, judged = judge_caption([noun for noun, _ in nouns], truth, hallu, words)
        return count, found_nouns(output, [span for _, span in nouns], judged, truth)
    except (KeyError, TypeError) as error:
        raise RecordError(
            f"the target of {repr(name) if name else 'a description'} is wrong: got {type(error).__name__}: {error}; "
            "expected lists of words as truth, hallu, safe and known, and related words of each. Run it again."
        ) from error


@functools.cache
def _similarity(rule: str) -> Similarity:
    from scr import ConfigError

    try:
        return from_spacy() if rule == "spacy" else exact
    except WordDataError as error:
        raise ConfigError(f"{error}, or choose the task {AmberGenerativeExact.name}") from error


@functools.lru_cache(maxsize=8_192)
def _nouns(text: str) -> tuple[tuple[str, Span], ...]:
    from scr import ConfigError

    try:
        return tuple(placed_nouns(text))
    except WordDataError as error:
        raise ConfigError(str(error)) from error


def _chosen(scores: Scores, metrics: Sequence[str], counts: dict[str, int]) -> Scores:
    """Some of the metrics, with other counts."""
    return Scores(
        metrics={name: scores.metrics[name] for name in metrics},
        counts=counts,
        intervals={name: scores.intervals[name] for name in metrics if name in scores.intervals},
        reasons={name: scores.reasons[name] for name in metrics if name in scores.reasons},
    )
