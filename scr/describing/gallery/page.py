"""`index.html`: photos, what each method says of them, and marks of what is there; it opens from disk.

What comes from models and files is JSON in it, which its script shows as text, never as HTML.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...files import read_text, write_text
from ...pages.embedding import script_json, shared
from ...pages.escaping import printable
from ...pages.veil import attention_bytes, look
from .differences import differing_words
from .records import Row, object_of

PAGE = "index.html"


def write_page(
    folder: Path,
    settings: Mapping[str, Any],
    rows: Sequence[Row],
    copied: Callable[[str], Mapping[str, Any] | None],
) -> Path:
    """Write the page of a folder of descriptions.

    Args:
        folder: where it goes.
        settings: as `Records.begin` returns them.
        rows: the descriptions, in the order of the page.
        copied: is given a photo's name, and tells its `file` below the folder and its `size` in pixels; None for one
            that cannot be shown.

    Returns:
        The page.

    Raises:
        DataFileError: where a part of the page cannot be read.
        OSError: where it cannot be written.
    """
    data = page_data(settings, rows, copied)
    parts = {
        "title": html.escape(f"{len(data['photos'])} photos described by {data['model']}"),
        "style": shared("look.css") + _template("gallery.css"),
        "data": script_json(data),
        "script": shared("veil.js", "said.js") + _template("gallery.js"),
    }
    # In one pass: what is put in is not looked at again.
    page = re.sub(r"<!--(\w+)-->", lambda mark: parts[mark.group(1)], _template("gallery.html"))
    write_text(folder / PAGE, page)
    return folder / PAGE


def page_data(
    settings: Mapping[str, Any], rows: Sequence[Row], copied: Callable[[str], Mapping[str, Any] | None]
) -> dict[str, Any]:
    """What the page's script is given. Arguments: see `write_page`."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    photos: dict[str, dict[str, Row]] = {}
    for row in rows:
        photos.setdefault(row["image"], {})[row["method"]] = row
    return {
        "id": settings["id"],
        "model": printable(str(settings["model"])),
        "prompt": printable(str(settings["prompt"])),
        "calibration": next((row["calibration"] for row in rows if row.get("calibration")), None),
        "methods": methods,
        "look": look(),
        "photos": [_photo(name, said, methods, copied(name)) for name, said in photos.items()],
    }


def _photo(
    name: str, said: Mapping[str, Row], methods: Sequence[str], copy: Mapping[str, Any] | None
) -> dict[str, Any]:
    texts = {method: row for method, row in said.items() if row["error"] is None}
    objects = {object_of(doubt): doubt["category"] is not None for row in texts.values() for doubt in row["doubts"]}
    # Those of CHAIR's list first: what is marked of them is what other measures grade.
    ordered = sorted(objects, key=lambda one: not objects[one])
    first = next((texts[method]["text"] for method in methods if method in texts), "")
    lacking = [differing_words(first, row["text"]) for row in texts.values()]
    own = [span for spans, _ in lacking for span in spans]
    found = [None if row is None else _said(row, first, own, ordered) for row in map(said.get, methods)]
    return {
        "name": printable(name),
        "key": name,
        **(copy or {}),
        "objects": [[printable(one), one, int(objects[one])] for one in ordered],
        "said": found,
    }


def _said(row: Row, first: str, own: Iterable[tuple[int, int]], objects: Sequence[str]) -> dict[str, Any]:
    """What one method says, cut into pieces: of words that differ, and of words that are doubted."""
    if row["error"] is not None:
        return {"error": printable(row["error"])}
    text, doubts = row["text"], row["doubts"]
    spans = own if text == first else differing_words(first, text)[1]
    differs = [any(start <= place < end for start, end in spans) for place in range(len(text))]
    doubted = [-1] * len(text)
    for number, doubt in enumerate(doubts):
        doubted[doubt["start"] : doubt["end"]] = [number] * (doubt["end"] - doubt["start"])
    pieces: list[list[Any]] = []
    for letter, *kind in zip(text, map(int, differs), doubted, strict=True):
        if pieces and pieces[-1][1:] == kind:
            pieces[-1][0] += letter
        else:
            pieces.append([letter, *kind])
    trace = row.get("trace")
    measures = ("score", "confidence", "evidence", "recheck")
    return {
        "pieces": pieces,
        "doubts": [[objects.index(object_of(one)), *(one[name] for name in measures)] for one in doubts],
        "milliseconds": round(row["milliseconds"]),
        "trace": None if trace is None else _trace(trace),
    }


def _trace(trace: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "grids": trace["grids"],
        "whole": 0 if len(trace["grids"]) == 1 else trace.get("whole"),
        **{name: trace.get(name) or [] for name in ("sources", "neighbors", "owners")},
        "entropy": trace["entropy"],
        **attention_bytes(trace["attention"]),
    }


def _template(name: str) -> str:
    return read_text(Path(__file__).with_name(name))
