"""AMBER's responses as lmms-eval and VLMEvalKit leave them."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from scr.files import read_rows

from ..harnesses import is_of_vlmevalkit, kept_by_lmms_eval, said_to_lmms_eval, texts_of
from ..scoring import AnswerFileError, field_of

_KEPT = ("amber_chair",)


def responses_of_tools(
    rows: Sequence[Any], path: Path, annotations: Mapping[int, Mapping[str, Any]], queries: Path
) -> list[Any]:
    """Rows of other tools as rows {id, response}; all other rows as they are.

    A sample of lmms-eval's `amber_g` has no id, but the number of its row in the data set: query 1 is row 0. That the
    objects of its image are those of the annotations is checked. A row of VLMEvalKit is found by image and question;
    those few that AMBER asks twice of one image are taken in its order.

    Args:
        rows: of a file of responses.
        path: that file.
        annotations: id → the official row.
        queries: query_all.json, which VLMEvalKit's rows need.

    Raises:
        DataFileError: for a sample of another data set, or a question that AMBER does not ask.
    """
    found: list[Any] = []
    asked: dict[tuple[str, str], list[int]] | None = None
    for number, row in enumerate(rows, start=1):
        if kept_by_lmms_eval(row, _KEPT) is not None:
            query = field_of(row, "doc_id", path, number, int) + 1
            _check_objects(row, annotations.get(query), path, number)
            found.append({"id": query, "response": said_to_lmms_eval(row, path, number)})
        elif is_of_vlmevalkit(row):
            asked = _asked(queries) if asked is None else asked
            image, question, response = texts_of(row, ("image_path", "question", "prediction"), path, number)
            left = asked.get((PurePosixPath(image).name, question.strip()))
            if not left:
                raise AnswerFileError(
                    f"{path}, row {number}: got {question[:60]!r} about {image[:60]!r}"
                    f"{' once too often' if left == [] else ''}; expected a question of {queries}. Check the file."
                )
            found.append({"id": left.pop(0), "response": response})
        else:
            found.append(row)
    return found


def _asked(queries: Path) -> dict[tuple[str, str], list[int]]:
    """Image and question → ids."""
    found: dict[tuple[str, str], list[int]] = {}
    for number, row in enumerate(read_rows(queries), start=1):
        key = (field_of(row, "image", queries, number), field_of(row, "query", queries, number).strip())
        found.setdefault(key, []).append(field_of(row, "id", queries, number, int))
    return found


def _check_objects(row: Mapping[str, Any], annotation: Mapping[str, Any] | None, path: Path, number: int) -> None:
    target = str(row.get("target"))
    try:
        objects = ast.literal_eval(target)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        objects = None
    if annotation is None or objects != annotation["truth"]:
        raise AnswerFileError(
            f"{path}, row {number}: got objects {target[:60]} in row {row['doc_id']} of the data set; expected "
            f"{str(annotation['truth'] if annotation else 'a query of AMBER')[:60]}. Use a run on AMBER's own order."
        )
