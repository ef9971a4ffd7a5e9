"""Training data: rows of an image, a question and the answer, one JSON object per line."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..files import json_text, numbered_rows
from ..files import write_rows as write_json_rows

_MARK = "<image>"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One question about one image, with its answer.

    Attributes:
        name: for messages: the file and the line.
        image: the picture's file.
        question: the text, without the model's own turn markers.
        answer: what is to be learnt.
    """

    name: str
    image: Path
    question: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What `prepare_data` made.

    Attributes:
        rows: `{"image", "question", "answer"}` objects, in the order drawn.
        skipped: reason → how many conversations were left out for it.
    """

    rows: Sequence[Mapping[str, str]]
    skipped: Mapping[str, int]


def read_rows(path: Path, images: Path | None = None) -> list[Row]:
    """The rows of a file of JSON lines, or of a JSON array.

    Args:
        path: rows `{"image", "question", "answer"}`; other names are ignored.
        images: folder that the images' names start from; None for the file's own.

    Raises:
        DataFileError: for a file that cannot be read, or a line that is no JSON.
        ConfigError: for a file without rows, a row that is none, or an image that is not there; naming the line.
    """
    folder = images if images is not None else path.parent
    rows, there = [], set[Path]()
    for number, found in numbered_rows(path):
        name = f"{path.name}, line {number}"
        try:
            image, question, answer = (found[key] for key in ("image", "question", "answer"))
        except (KeyError, TypeError, IndexError) as error:
            raise ConfigError(
                f"no row of training data: got {json_text(found)[:60]!r} in {name} ({type(error).__name__}: {error}); "
                'expected {"image": ..., "question": ..., "answer": ...}. Mend the line.'
            ) from error
        if not all(isinstance(text, str) and text.strip() for text in (image, question, answer)):
            raise ConfigError(
                f"an empty field: got {json_text(found)[:60]!r} in {name}; expected three texts. Mend the line."
            )
        if wrong := [text for text in (image, question, answer) if not _is_text(text)]:
            raise ConfigError(
                f"no text: got half a character (a lone surrogate) in {wrong[0][:40]!r} in {name}; expected text that "
                "UTF-8 can write. Mend the line."
            )
        file = folder / image
        if file not in there and not file.is_file():
            raise ConfigError(f"no such image: got {image!r} in {name}; expected it below {folder}. Give --images.")
        there.add(file)
        rows.append(Row(name=name, image=file, question=question.strip(), answer=answer.strip()))
    if not rows:
        raise ConfigError(f"no training data: got no row in {path}; expected at least one. Give another file.")
    return rows


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as `read_rows` reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_rows(path, (dict(row) for row in rows))


def prepare_data(conversations: Sequence[Any], images: Path, count: int | None = None, seed: int = 0) -> Prepared:
    """Rows from conversations in the format of LLaVA-Instruct: each one's first question and answer.

    Args:
        conversations: `{"image", "conversations": [{"from": "human", "value"}, {"from": "gpt", "value"}, ...]}`.
        images: folder that the images' names start from; what is not there is skipped.
        count: how many rows, drawn by the seed; None for all, in their order.
        seed: of the draw. The same file, count and seed give the same rows.
    """
    order = list(range(len(conversations)))
    if count is not None:
        random.Random(seed).shuffle(order)
    rows: list[Mapping[str, str]] = []
    skipped: Counter[str] = Counter()
    for index in order:
        if len(rows) == count:
            break
        row, problem = _first_turn(conversations[index], images)
        if row is None:
            skipped[problem] += 1
        else:
            rows.append(row)
    return Prepared(rows=rows, skipped=dict(skipped))


def image_digests(rows: Iterable[Row]) -> list[str]:
    """A short digest of each image's file, each once, sorted: by it an evaluation knows what was trained on."""
    return sorted({image_file_digest(image) for image in {row.image for row in rows}})


def image_file_digest(path: Path) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _first_turn(conversation: Any, images: Path) -> tuple[Mapping[str, str] | None, str]:
    """The row that a conversation gives, or why it gives none."""
    if not isinstance(conversation, Mapping) or not isinstance(conversation.get("conversations"), list):
        return None, "no conversation"
    image, turns = conversation.get("image"), conversation["conversations"]
    if not isinstance(image, str) or not image:
        return None, "no image"
    if len(turns) < 2 or not all(isinstance(turn, Mapping) for turn in turns[:2]):
        return None, "no question and answer"
    if (turns[0].get("from"), turns[1].get("from")) != ("human", "gpt"):
        return None, "first turns are not human and gpt"
    question, answer = turns[0].get("value"), turns[1].get("value")
    if not isinstance(question, str) or not isinstance(answer, str):
        return None, "no text"
    if question.count(_MARK) != 1:
        return None, "not exactly one image in the first question"
    question, answer = question.replace(_MARK, "").strip(), answer.strip()
    if not question or not answer:
        return None, "empty question or answer"
    if not _is_text(image + question + answer):
        return None, "half a character"
    if not (images / image).is_file():
        return None, "image file not there"
    return {"image": image, "question": question, "answer": answer}, ""


def _is_text(text: str) -> bool:
    """Whether it can be written: JSON may escape half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
