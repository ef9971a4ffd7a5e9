"""What a notebook shows: traces as pictures, answers and outcomes as tables."""

from __future__ import annotations

import re
import xml.etree.ElementTree as xml

import torch

import scr
from benchmarks.notebook import SideBySide
from benchmarks.studies.side_by_side import Compared, Condition
from benchmarks.studies.wording import word_differences

SVG = "{http://www.w3.org/2000/svg}"


def test_a_trace_is_its_map_with_sources_and_neighbours():
    trace = scr.Trace(
        row=0,
        image=0,
        grids=((2, 3), (1, 2)),
        sources=torch.tensor([4, 6]),
        neighbors=torch.tensor([0, 3, 7]),
        owners=torch.tensor([0, 0, 1]),
        attention=torch.tensor([0.1, 0.1, 0.0, 0.1, 0.4, 0.1, 0.1, 0.1]),
        entropy=1.5,
        norm_ratio=None,
        milliseconds=2.0,
    )
    assert (
        repr(trace) == "Trace(row=0, image=0, grids=2×3, 1×2, 2 sources, 3 neighbours, entropy=1.50, norm_ratio=None)"
    )
    page = trace._repr_html_()
    svg = xml.fromstring(re.search("<svg.*</svg>", page).group())
    cells = [one for one in svg.findall(f"{SVG}rect") if one.get("fill") != "none"]
    squares = [one for one in svg.findall(f"{SVG}rect") if one.get("fill") == "none"]
    assert len(cells) == 8
    # The second grid stands to the right of the first, and the most attended patch is the lightest.
    assert [(float(one.get("x")), float(one.get("y"))) for one in cells] == [
        *((12.0 * column, 12.0 * row) for row in range(2) for column in range(3)),
        (44.0, 0.0),
        (56.0, 0.0),
    ]
    lightness = [float(re.search(r" (\d+)%\)", one.get("fill")).group(1)) for one in cells]
    assert lightness.index(max(lightness)) == 4
    assert lightness[2] == min(lightness)
    assert [(one.get("x"), one.get("y")) for one in squares] == [("14", "14"), ("46", "2")]
    ends = [tuple(float(line.get(name)) for name in ("x1", "y1", "x2", "y2")) for line in svg.findall(f"{SVG}line")]
    assert ends == [(6, 6, 18, 18), (6, 18, 18, 18), (62, 6, 50, 6)]
    assert len(svg.findall(f"{SVG}circle")) == 3


def test_answers_side_by_side():
    def answer(method: str, text: str, margin: float | None) -> Compared:
        return Compared(
            condition=Condition(method),
            output=text,
            margin=margin,
            new_tokens=3,
            prefill_ms=1.4,
            total_ms=9.0,
            differences=word_differences("a <b> dog", text),
        )

    shown = SideBySide([answer("none", "a <b> dog", None), answer("scr+purified", "a cat", 0.254)])
    table = xml.fromstring(shown._repr_html_())
    rows = [["".join(cell.itertext()) for cell in row] for row in table]
    assert rows[0] == ["", "answer", "margin", "tokens", "first token ms", "all ms"]
    assert rows[1] == ["none", "a <b> dog", "–", "3", "1", "9"]
    assert rows[2] == ["scr+purified", "a <b> dog cat", "+0.25", "3", "1", "9"]
    assert [(one.tag, one.text) for one in table.iter() if one.tag in ("ins", "del")] == [
        ("del", "<b> dog"),
        ("ins", "cat"),
    ]
