"""Folders of descriptions as a run leaves them, made by hand: no model is asked."""

from __future__ import annotations

from pathlib import Path

from scr.describing.description import Description, Doubt
from scr.describing.doubts.scores import Calibration
from scr.describing.gallery.records import Records

SETTINGS = {"model": "lab/llava", "prompt": "Describe.", "methods": {"none": {}, "vcd": {}}}
TRACE = {"grids": [[3, 4]], "attention": [0.02] * 6 + [0.01] * 5 + [0.04], "entropy": 2.4,
         "sources": [5], "neighbors": [4, 6], "owners": [0, 0]}  # fmt: skip


def calibration(intercept: float, **weights: float) -> Calibration:
    """A calibration with these weights."""
    return Calibration(name="mine", model="m", data="d", prompt="p", date="2026-01-02", mentions=10, made_up=4,
                       intercept=intercept, weights=weights)  # fmt: skip


def row(image, text, *objects, method="none", error=None, trace=None, **doubts):
    """A line: `objects` are words of the text, of CHAIR's list where `doubts` has no other `category`."""
    found = [
        Doubt(word=word, start=text.index(word), end=text.index(word) + len(word), **{"category": word, **doubts})
        for word in sorted(objects, key=text.index)
    ]
    said = Description(image=image, prompt="Describe.", text=text, doubts=tuple(found), method=method, error=error,
                       calibration="lab" if any(one.score is not None for one in found) else None)  # fmt: skip
    return {**said.to_dict(), "trace": trace}


def described(folder: Path, rows, **settings) -> Records:
    """A folder with these lines."""
    records = Records(folder)
    records.begin({**SETTINGS, **settings})
    records.add(rows)
    return records
