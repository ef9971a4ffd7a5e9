"""The files of the report's sample browser: an index for the page, chunks of samples, pictures.

A page that was opened from disk may not fetch a file, but may load a script: samples beyond the first ones lie in
scripts that call a function of the page. What comes from records is JSON in them, and text, never HTML, in the page.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scr.files import write_text
from scr.pages.embedding import script_json
from scr.pages.veil import attention_bytes

from .._benchmarks import SampleRecord
from ..drawing.overlays import TraceError, read_layers
from ..drawing.pictures import Key, find_pictures
from ..reading.trace import number
from .samples import OUTCOMES, Shown

INLINE = 200
"""Samples in the page itself; as many are in each chunk."""
FOLDER = "samples"
_LARGE, _THUMBNAIL, _LOSSLESS = 768, 96, 256  # pixels of the longer side


@dataclass(frozen=True, kw_only=True, eq=False)
class Browser:
    """What was written for the sample browser.

    Attributes:
        data: JSON for the page: the index of all samples, the pictures, the first samples.
        files: written files.
        problems: sentences about pictures and traces that are not shown.
    """

    data: dict[str, Any]
    files: tuple[Path, ...]
    problems: tuple[str, ...]


def write_browser(samples: Sequence[Shown], out: Path, folders: Sequence[Path] = ()) -> Browser:
    """Write pictures and chunks to `out/samples/`.

    Args:
        samples: in the order of the page.
        out: the report's folder.
        folders: where pictures are looked for.

    Raises:
        OSError: where `out` cannot be written.
    """
    _remove_old(out / FOLDER)
    keys = list(dict.fromkeys((one.data, one.record.image) for one in samples if one.record.image))
    found = find_pictures(keys, folders)
    first = {(one.data, one.record.image) for one in samples[:INLINE]}
    pictures, files, unreadable = _write_pictures(keys, found.files, first, out / FOLDER / "images")
    entries, misfits = [], []
    for one in samples:
        entry, misfit = _entry(one)
        entries.append(entry)
        misfits += [misfit] if misfit else []
    chunks = [entries[start : start + INLINE] for start in range(0, len(entries), INLINE)]
    for count, chunk in enumerate(chunks[1:], start=1):
        path = out / FOLDER / f"chunk-{count:04d}.js"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, f"reportChunk({count}, {script_json(chunk)});\n")
        files.append(path)
    numbers = {key: index for index, key in enumerate(keys)}
    labels = {
        name: list(dict.fromkeys(getattr(one, name) for one in samples)) for name in ("model", "task", "row", "outcome")
    }
    index = {name: [known.index(getattr(one, name)) for one in samples] for name, known in labels.items()}
    data = {
        "chunkSize": INLINE,
        "folder": FOLDER,
        "outcomes": OUTCOMES,
        "labels": labels,
        "index": index
        | {
            "image": [numbers.get((one.data, one.record.image)) for one in samples],
            "entropy": [_finite(_entropy(one, "entropy")) for one in samples],
        },
        "images": pictures,
        "first": chunks[0] if chunks else [],
    }
    problems = [*found.problems, *unreadable]
    if misfits:
        problems.append(f"{len(misfits)} traces are not drawn, of which the first: {misfits[0]}")
    return Browser(data=data, files=tuple(files), problems=tuple(problems))


def _remove_old(folder: Path) -> None:
    """Remove what an earlier report left: its pictures are perhaps not among those of this one."""
    for path in (*folder.glob("chunk-*.js"), *folder.glob("images/*")):
        if re.fullmatch(r"chunk-\d{4,}\.js|\d{5,}\.(png|jpg)", path.name):
            path.unlink()


def _write_pictures(
    keys: Sequence[Key], paths: Mapping[Key, Path], first: set[Key], folder: Path
) -> tuple[list[dict[str, Any]], list[Path], list[str]]:
    """What the page knows of each picture, the files, and sentences about unreadable ones."""
    entries: list[dict[str, Any]] = []
    files: list[Path] = []
    unreadable: list[str] = []
    for index, key in enumerate(keys):
        entry: dict[str, Any] = {"name": key[1]}
        entries.append(entry)
        if key not in paths:
            continue
        try:
            with Image.open(paths[key]) as opened:
                picture = opened.convert("RGB")
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            unreadable.append(
                f"a picture cannot be read: got {key[1]} ({type(error).__name__}); expected an image file. Its map "
                "stands on a plain ground; replace the file."
            )
            continue
        entry["size"] = picture.size
        picture.thumbnail((_LARGE, _LARGE))
        lossless = max(picture.size) <= _LOSSLESS
        path = folder / f"{index:05d}.{'png' if lossless else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=85)  # JPEG alone takes it
        files.append(path)
        entry["file"] = path.name
        if key in first:
            picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
            stream = io.BytesIO()
            picture.save(stream, "JPEG", quality=80)
            entry["thumbnail"] = f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
    return entries, files, unreadable


def _entry(one: Shown) -> tuple[dict[str, Any], str | None]:
    """What the page shows of a sample, and why its trace is not drawn."""
    record = one.record
    entry: dict[str, Any] = {
        "id": record.id,
        "prompt": record.prompt,
        "target": record.target if isinstance(record.target, str) else json.dumps(record.target, ensure_ascii=False),
        "normalized": _finite(_entropy(one, "entropy_normalized")),
        "before": _side(one.before, one.before_pieces),
        "after": _side(one.after, one.after_pieces),
    }
    if isinstance(record.target, list):
        entry["target"] = ", ".join(map(str, record.target))
    try:
        found = [layers for side in (one.after, one.before) if side and (layers := read_layers(side.trace))]
    except TraceError as error:
        return entry, str(error)
    if not found:
        return entry, None
    # The map is that of the model as it is, whichever run recorded it; sources belong to the method.
    layers = found[0]
    mapped = next((each for each in found if each.attention is not None and each.grids == layers.grids), layers)
    entry["trace"] = {
        "grids": layers.grids,
        "whole": layers.whole,
        "sources": layers.sources,
        "neighbors": layers.neighbors,
        "owners": layers.owners,
    }
    if mapped.attention is not None:
        entry["trace"] |= attention_bytes(mapped.attention.tolist())
    return entry, None


def _side(record: SampleRecord | None, pieces: Sequence[tuple[str, bool]]) -> dict[str, Any] | None:
    if record is None:
        return None
    return {
        "pieces": [[text, int(marked)] for text, marked in pieces],
        "answer": record.answer,
        "outcome": record.outcome,
        "margin": None if record.margin is None else _finite(record.margin),
        "error": record.error,
    }


def _entropy(one: Shown, key: str) -> float:
    """Of the model as it is, so that methods are filtered alike; else what the method's run measured."""
    values = [number(side, key) for side in (one.before, one.after) if side is not None]
    return next((value for value in values if np.isfinite(value)), float("nan"))


def _finite(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None
