"""Read tables as VLMEvalKit writes them, an Excel workbook or tab-separated text: a row is an object of texts.

Standard library only. Of a workbook the first sheet is read; what its cells look like does not matter.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from scr.files import read_bytes, read_text

from .scoring import AnswerFileError

SUFFIXES = (".xlsx", ".tsv")
"""What the names of such files end with."""

_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_SHEET, _STRINGS = "xl/worksheets/sheet1.xml", "xl/sharedStrings.xml"
_LARGEST = 2**28  # bytes of a part once it is unpacked: answers to any benchmark are far fewer
_LONGEST = 2**24  # characters of a field of a text file
# Of zipfile, zlib (also of an encrypted or oddly packed part), the XML and the CSV readers, and of what is below.
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    RuntimeError,
    ElementTree.ParseError,
    csv.Error,
    KeyError,
    ValueError,
)
_ESCAPED = re.compile(r"_x([0-9A-Fa-f]{4})_")


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows below the first, which names the columns; an empty cell is an empty text.

    Raises:
        DataFileError: for a file that is no such table.
    """
    try:
        rows = list(_workbook(path) if path.suffix.lower() == ".xlsx" else _text(path))
    except _BROKEN as error:
        raise AnswerFileError(
            f"{path} is no table: got {type(error).__name__}: {' '.join(str(error).split())[:120]}; expected an Excel "
            "workbook (.xlsx) or text with tabs (.tsv). Write it again."
        ) from error
    names = rows[0] if rows else []
    if not any(names) or len({name for name in names if name}) < len([name for name in names if name]):
        raise AnswerFileError(
            f"{path} has no columns to tell apart: got {names[:8]} as its first row; expected their names, each once. "
            "Repair the file."
        )
    filled = (row + [""] * (len(names) - len(row)) for row in rows[1:] if any(row))
    return [{name: cell for name, cell in zip(names, row, strict=False) if name} for row in filled]


def _text(path: Path) -> Iterator[list[str]]:
    before = csv.field_size_limit(_LONGEST)
    try:
        yield from csv.reader(io.StringIO(read_text(path), newline=""), delimiter="\t", strict=True)
    finally:
        csv.field_size_limit(before)


def _workbook(path: Path) -> Iterator[list[str]]:
    with zipfile.ZipFile(io.BytesIO(read_bytes(path))) as file:
        shared = [_words(one) for one in _part(file, _STRINGS)] if _STRINGS in file.namelist() else []
        sheet = _part(file, _SHEET)
    for row in sheet.iter(f"{_MAIN}row"):
        cells: dict[int, str] = {}
        for place, cell in enumerate(row):
            cells[_column(cell.get("r", ""), place)] = _cell(cell, shared)
        yield [cells.get(column, "") for column in range(max(cells, default=-1) + 1)]


def _part(file: zipfile.ZipFile, name: str) -> ElementTree.Element:
    size = file.getinfo(name).file_size
    if size > _LARGEST:
        raise ValueError(f"{name} of {size:,} bytes")
    return ElementTree.fromstring(file.read(name))


def _column(reference: str, place: int) -> int:
    """Number of a cell's column, from 0; in "AB12" that is "AB". A cell without a reference follows the last."""
    letters = reference.rstrip("0123456789")
    if not letters:
        return place
    number = 0
    for letter in letters:
        number = 26 * number + "ABCDEFGHIJKLMNOPQRSTUVWXYZ".index(letter) + 1
    if number > 16_384:  # Excel's own limit
        raise ValueError(f"a cell {reference!r}")
    return number - 1


def _cell(cell: ElementTree.Element, shared: Sequence[str]) -> str:
    formula = cell.find(f"{_MAIN}f")
    if formula is not None:  # an answer that begins with "=" was taken for one
        return f"={formula.text or ''}"
    if cell.get("t") == "inlineStr":
        return _words(cell)
    value = cell.find(f"{_MAIN}v")
    text = "" if value is None or value.text is None else value.text
    if cell.get("t") == "s":
        return shared[int(text)] if 0 <= int(text) < len(shared) else _unknown(text)
    return text


def _unknown(number: str) -> str:
    raise ValueError(f"a text {number} that is not there")


def _words(element: ElementTree.Element) -> str:
    """All text in an element, however many runs it is cut into; of a phonetic hint nothing."""
    runs = [element, *element.iter(f"{_MAIN}is"), *element.iter(f"{_MAIN}r")]
    text = "".join(one.text or "" for run in runs for one in run.findall(f"{_MAIN}t"))
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
