"""Captions, and the references beside them, as lmms-eval and VLMEvalKit leave them."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scr.files import read_text

from ..harnesses import answer_rows, is_of_vlmevalkit, kept_by_lmms_eval, said_to_lmms_eval, texts_of
from ..scoring import AnswerFileError, field_of
from ..spreadsheet import SUFFIXES

_KEPT = ("coco_CIDEr", "coco_passthrough")


def is_of_a_tool(path: Path) -> bool:
    """Whether a file is a table, or has samples of lmms-eval; a pipe is neither."""
    return path.suffix.lower() in SUFFIXES or (path.is_file() and '"filtered_resps"' in read_text(path))


def captions_of_tools(rows: Sequence[Any], path: Path) -> list[Any]:
    """Rows of other tools as rows {image_id, caption}; all other rows as they are.

    Raises:
        DataFileError: for a sample that holds no caption.
    """
    found: list[Any] = []
    for number, row in enumerate(rows, start=1):
        kept = kept_by_lmms_eval(row, _KEPT)
        if kept is not None:
            image = field_of(kept, "image_id", path, number, (int, str))
            found.append({"image_id": image, "caption": said_to_lmms_eval(row, path, number)})
        elif is_of_vlmevalkit(row):
            image, text = texts_of(row, ("index", "prediction"), path, number)
            found.append({"image_id": image, "caption": text})
        else:
            found.append(row)
    return found


def references_of_tools(path: Path) -> dict[str, list[str]]:
    """Image → the references that a tool has written beside its captions.

    Raises:
        DataFileError: for a row without them.
    """
    found: dict[str, list[str]] = {}
    for number, row in enumerate(answer_rows(path), start=1):
        kept = kept_by_lmms_eval(row, _KEPT)
        if kept is not None:
            image, texts = str(field_of(kept, "image_id", path, number, (int, str))), kept.get("answer")
        elif is_of_vlmevalkit(row):
            image, written = texts_of(row, ("index", "answer"), path, number)
            texts = _list(written)
        else:
            image, texts = "", None
        if not isinstance(texts, list):
            raise AnswerFileError(
                f"{path}, row {number}: got no references in {str(row)[:80]}; expected a list of them, which lmms-eval "
                "and VLMEvalKit write beside captions. Give COCO's annotations as --references."
            )
        found[image] = texts
    return found


def _list(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
