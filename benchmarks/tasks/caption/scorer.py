"""`score caption`: captions against reference captions, by CIDEr-D, BLEU and ROUGE-L."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scr import DataFileError
from scr.files import RepeatedNameError, read_json, read_text

from ...records import SampleRecord
from ..harnesses import FORMS, answer_rows
from ..scoring import AnswerFileError, Scored, Scorer, field_of, match_ids
from .harnesses import captions_of_tools, is_of_a_tool, references_of_tools
from .task import score_answered
from .tokens import RULES


class CaptionScorer(Scorer):
    """Captions of any tool, one per image, against one or more references each."""

    summary = "captions against references: CIDEr-D, BLEU, ROUGE-L (checked against pycocoevalcap 1.2)"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """`--references`, `--captions` and `--rule`."""
        parser.add_argument(
            "--references",
            type=Path,
            required=True,
            metavar="FILE",
            help='JSON {"<id>": ["text", ...]}, or annotations of captions as COCO has them; or the file of --captions '
            "again, where that is of another tool",
        )
        parser.add_argument(
            "--captions",
            type=Path,
            required=True,
            metavar="FILE",
            help=f'JSON {{"<id>": "text"}}, or rows {{"image_id": id, "caption": "text"}}; or {FORMS}',
        )
        rules = "; ".join(f"{name}: {line}" for name, line in RULES.items())
        parser.add_argument(
            "--rule", choices=list(RULES), default="ptb", help=f"how words are cut (ptb). {rules}".replace("%", "%%")
        )

    def score(self, options: argparse.Namespace) -> Scored:
        """Read and score; ids are compared as text.

        Raises:
            DataFileError: for a file that cannot be read, or captions that do not match the references.
        """
        references = _read_references(options.references)
        captions = _read_captions(options.captions)
        notes = match_ids(references, [one for one, _ in captions], options.captions, options.allow_missing)
        said = dict(captions)
        records = [
            SampleRecord(id=one, image=one, prompt="", target=texts, output=said[one])
            for one, texts in references.items()
            if one in said
        ]
        if len(records) == 1:
            notes = [*notes, "CIDEr-D of a single image is 0 whatever it says: its words are weighted by log(1)"]
        missing = len(references) - len(records)
        scores = score_answered(records, options.rule, {"missing": missing} if missing else {})
        return Scored("caption", options.rule, scores, notes)


def _read_references(path: Path) -> dict[str, list[str]]:
    content = references_of_tools(path) if is_of_a_tool(path) else read_json(path, once=True)
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        found: dict[str, list[str]] = {}
        for number, row in enumerate(content["annotations"], start=1):
            found.setdefault(_id(row, path, number), []).append(field_of(row, "caption", path, number))
    elif isinstance(content, dict):
        found = {name: [texts] if isinstance(texts, str) else texts for name, texts in content.items()}
    else:
        raise AnswerFileError(
            f'{path}: got {_start(content)}; expected an object {{"<id>": ["text", ...]}}. See --help.'
        )
    for name, texts in found.items():
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise AnswerFileError(
                f"{path}, references of {name!r}: got {_start(texts)}; expected a list of one or more texts. Add them."
            )
    return found


def _read_captions(path: Path) -> list[tuple[str, str]]:
    content = None if is_of_a_tool(path) else _mapping(path)
    if content is None:
        rows = captions_of_tools(answer_rows(path), path)
        return [(_id(row, path, at), field_of(row, "caption", path, at)) for at, row in enumerate(rows, start=1)]
    for name, text in content.items():
        if isinstance(text, list) and len(text) == 1:
            content[name] = text = text[0]
        if not isinstance(text, str):
            raise AnswerFileError(f"{path}, caption of {name!r}: got {_start(text)}; expected one text. See --help.")
    return list(content.items())


def _mapping(path: Path) -> dict[str, Any] | None:
    """The file as one object by id; None where it holds rows."""
    if read_text(path).lstrip().startswith("["):
        return None
    try:
        content = read_json(path, once=True)
    except RepeatedNameError:
        raise
    except DataFileError:
        return None  # JSON lines: read as rows, whose error names the line
    return content if isinstance(content, dict) and not {"image_id", "caption"} <= content.keys() else None


def _id(row: Any, path: Path, number: int) -> str:
    field = "image_id" if isinstance(row, Mapping) and "image_id" in row else "id"
    return str(field_of(row, field, path, number, (str, int)))


def _start(content: Any) -> str:
    return json.dumps(content)[:60]
