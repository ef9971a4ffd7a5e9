"""Tables as pandas leaves them for VLMEvalKit: a workbook, part by part, and text with tabs."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

_NAMESPACE = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'


def column(number: int) -> str:
    """Letters of a column, from 0."""
    letters = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(65 + rest) + letters
    return letters


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Write rows with equal keys, the keys above; the form is the suffix's. Texts of a workbook are shared."""
    table = [list(rows[0]), *(list(row.values()) for row in rows)]
    if path.suffix == ".tsv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL).writerows(table)
        return path
    texts: dict[str, int] = {}
    lines = []
    for number, row in enumerate(table, start=1):
        cells = []
        for place, value in enumerate(row):
            name = f'r="{column(place)}{number}"'
            if isinstance(value, str) and value.startswith("="):
                cells.append(f"<c {name}><f>{escape(value[1:])}</f><v>0</v></c>")
            elif isinstance(value, str) and value:
                cells.append(f'<c {name} t="s"><v>{texts.setdefault(value, len(texts))}</v></c>')
            elif value != "":
                cells.append(f"<c {name}><v>{value}</v></c>")
        lines.append(f'<row r="{number}">{"".join(cells)}</row>')
    shared = "".join(f'<si><t xml:space="preserve">{escape(text)}</t></si>' for text in texts)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("xl/sharedStrings.xml", f"<sst {_NAMESPACE}>{shared}</sst>")
        sheet = f"<worksheet {_NAMESPACE}><sheetData>{''.join(lines)}</sheetData></worksheet>"
        file.writestr("xl/worksheets/sheet1.xml", sheet)
    return path
