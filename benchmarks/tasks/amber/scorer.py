"""`score amber`: responses to AMBER's queries, with the official annotations."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from scr.command.types import real
from scr.files import read_json, read_rows, read_text

from ..harnesses import FORMS, answer_rows
from ..parsing import parse_yes_no
from ..scoring import AnswerFileError, Scored, Scorer, field_of, match_ids
from .harnesses import responses_of_tools
from .rule import GENERATIVE, KINDS, PARTS, RULES, Response, Words, count_caption, score_responses
from .words import Similarity, WordDataError, exact, from_spacy, from_table, nouns

THRESHOLD = 0.8


class AmberScorer(Scorer):
    """Scores a response file: [{"id": 1, "response": "..."}, ...] in JSON or JSON lines.

    The data are the official files annotations.json, relation.json and safe_words.txt in one folder, and
    query/query_all.json for the names of the images, which only intervals need.
    """

    summary = "AMBER: captions and yes/no questions; the official rule with its constants, or plain"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare `--data`, `--responses`, `--rule`, `--answer-rule`, `--similarity` and `--similarity-score`."""
        parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of annotations.json, ...")
        parser.add_argument(
            "--responses",
            type=Path,
            required=True,
            metavar="FILE",
            help=f'rows {{"id": 1, "response": "..."}}; or {FORMS}',
        )
        lines = "; ".join(f"{name}, {line}" for name, line in RULES.items())
        parser.add_argument("--rule", choices=tuple(RULES), default="amber", help=f"{lines} (amber)")
        parser.add_argument(
            "--answer-rule",
            choices=("amber", "strict"),
            default="amber",
            help="amber: officially exactly Yes or No; strict, ours: reads 'No, ...' too (amber)",
        )
        parser.add_argument(
            "--similarity",
            default="spacy",
            metavar="FILE",
            help='of nouns in captions: spacy, the official vectors; exact, equal words only; or a file {"table": '
            '{"a|b": 0.9}}, the two words sorted (spacy)',
        )
        parser.add_argument(
            "--similarity-score",
            type=real,
            default=THRESHOLD,
            metavar="X",
            help=f"words are similar above ({THRESHOLD})",
        )

    def score(self, options: argparse.Namespace) -> Scored:
        """Read and score.

        A file may answer the generative part, or the attribute, existence or relation questions, or several of these;
        each that it answers it must answer as a whole.

        Raises:
            DataFileError: for a file that cannot be read, an id of no query, or a part answered in part, unless
                --allow-missing; where words need what is not installed.
        """
        annotations = read_annotations(options.data / "annotations.json")
        path: Path = options.responses
        texts = []
        rows = responses_of_tools(answer_rows(path), path, annotations, options.data / "query" / "query_all.json")
        for number, row in enumerate(rows, start=1):
            texts.append((field_of(row, "id", path, number, int), field_of(row, "response", path, number)))
        begun = {part_of(annotations[number]) for number, _ in texts if number in annotations}
        wanted = (
            [number for number, row in annotations.items() if part_of(row) in begun] if begun else list(annotations)
        )
        notes = match_ids(wanted, (number for number, _ in texts), path, options.allow_missing)
        absent = [part for part in PARTS if part not in begun]
        if absent:
            notes.append(f"not answered at all: {', '.join(absent)}")
        images = _read_images(options.data / "query" / "query_all.json")
        try:
            words = _read_words(options) if GENERATIVE in begun else None
            responses = [
                _read_response(text, annotations[number], images.get(number, str(number)), words, options)
                for number, text in texts
            ]
        except WordDataError as error:
            raise AnswerFileError(str(error)) from error
        scores = score_responses(responses, options.rule, partial=options.allow_missing)
        if not images:
            scores.intervals.clear()
            notes.append("no intervals: query/query_all.json, which names the images, is not in the data folder")
        if len(texts) < len(wanted):
            scores = dataclasses.replace(scores, counts={**scores.counts, "missing": len(wanted) - len(texts)})
        unparsed = scores.counts["unparsed"]
        if unparsed and options.answer_rule == "amber":
            notes.append(f"{unparsed} answers are not exactly Yes or No and count as wrong, as officially")
        return Scored("amber", options.rule, scores, notes)


def read_similarity(text: str) -> Similarity:
    """The similarity that `--similarity` names.

    Raises:
        DataFileError: for a file that is no table.
        WordDataError: where spaCy or its vectors are not installed.
    """
    if text == "exact":
        return exact
    if text == "spacy":
        try:
            return from_spacy()
        except WordDataError as error:
            raise WordDataError(f"{error}, or give --similarity exact, or a file") from error
    path = Path(text)
    content = read_json(path, once=True)
    table = content.get("table") if isinstance(content, dict) else None
    if not isinstance(table, dict):
        raise AnswerFileError(f'{path}: got no table; expected {{"table": {{"a|b": 0.9}}}}. See --similarity.')
    for key, value in table.items():
        if "|".join(sorted(key.split("|"))) != key or key.count("|") != 1:
            raise AnswerFileError(
                f"{path}: got the key {key!r}; expected two words, sorted, with | between. Repair it."
            )
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise AnswerFileError(f"{path}: got {value!r} for {key!r}; expected a number. Repair it.")
    return from_table(table)


def read_annotations(path: Path) -> dict[int, dict[str, Any]]:
    """Id → row of the official annotations.

    Raises:
        DataFileError: naming the file and the row.
    """
    annotations: dict[int, dict[str, Any]] = {}
    for number, row in enumerate(read_rows(path), start=1):
        kind = field_of(row, "type", path, number)
        if kind == GENERATIVE:
            lists = [field_of(row, name, path, number, list) for name in ("truth", "hallu")]
            good = all(isinstance(word, str) for words in lists for word in words)
        else:
            good = kind in KINDS and row.get("truth") in ("yes", "no")
        if not good:
            raise AnswerFileError(
                f"{path}, row {number}: got type {kind!r} with truth {str(row.get('truth'))[:40]!r}; expected lists of "
                f"words for generative, yes or no for {', '.join(KINDS)}. Use the official file."
            )
        name = field_of(row, "id", path, number, int)
        if name in annotations:
            raise AnswerFileError(f"{path}, row {number}: got id {name} again; expected each once. Repair the file.")
        annotations[name] = row
    return annotations


def part_of(annotation: dict[str, Any]) -> str:
    """The one of `PARTS` that an annotation belongs to."""
    return GENERATIVE if annotation["type"] == GENERATIVE else KINDS[annotation["type"]][0]


def _read_images(path: Path) -> dict[int, str]:
    if not path.is_file():
        return {}
    rows = enumerate(read_rows(path), start=1)
    return {field_of(row, "id", path, number, int): field_of(row, "image", path, number) for number, row in rows}


def read_vocabulary(folder: Path) -> tuple[dict[str, list[str]], frozenset[str]]:
    """Object → words that stand for it too, and the words that are neither right nor wrong.

    Raises:
        DataFileError: naming the file.
    """
    path = folder / "relation.json"
    related = read_json(path)
    lists = related.values() if isinstance(related, dict) else [None]
    if not all(isinstance(words, list) and all(isinstance(word, str) for word in words) for words in lists):
        raise AnswerFileError(f"{path}: got no lists of related words; expected an object of lists. Use the official.")
    # Line by line and unstripped, as officially.
    return related, frozenset(read_text(folder / "safe_words.txt").split("\n"))


def _read_words(options: argparse.Namespace) -> Words:
    related, safe = read_vocabulary(options.data)
    similarity = read_similarity(options.similarity)
    return Words(related=related, safe=safe, similarity=similarity, threshold=options.similarity_score)


def _read_response(
    text: str, annotation: dict[str, Any], image: str, words: Words | None, options: argparse.Namespace
) -> Response:
    kind = annotation["type"]
    if kind != GENERATIVE or words is None:
        return Response(image, kind, target=annotation["truth"], answer=parse_yes_no(text, options.answer_rule))
    unknown = [word for word in (*annotation["truth"], *annotation["hallu"]) if word not in words.related]
    if unknown:
        raise AnswerFileError(
            f"{options.data / 'relation.json'}: got no line for {unknown[0]!r} of annotation {annotation['id']}; "
            "expected one for every word of the annotations. Use the official files."
        )
    return Response(image, kind, count_caption(nouns(text), annotation["truth"], annotation["hallu"], words))
