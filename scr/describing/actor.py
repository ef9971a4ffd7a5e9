"""What describes on a cluster: an actor that has a model, and is given batches of photos."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import SCRError
from ..files import json_text, parse_json
from .gallery.photos import Photo
from .gallery.records import Row

REFUSED, COPY = "refused", "copy"
"""Names in what an actor returns that is no description: why it does not go on; what a photo's copy is called."""


class Describer:
    """An actor: a model that describes one batch of photos after the other."""

    def __init__(self, name: str, dtype: str, device: str, asked: tuple[Any, ...], methods: Sequence[str]) -> None:
        """Load the model.

        Args:
            name: of the model.
            dtype: likewise.
            device: of this actor.
            asked: see `Cluster.describe_missing`.
            methods: all that may be asked for, in order.
        """
        from ..checkpoints.chosen import load_chosen
        from .asking import Asker

        self._methods, self._refusal = methods, ""
        try:
            model, processor, _ = load_chosen(name, dtype, device)
            self._asker = Asker(model, processor, *asked)
        except SCRError as error:  # told by the first batch: Ray would start the actor again and again
            self._refusal = str(error)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Photos → `row`: a line for each, and for each method that is asked for, as JSON.

        Before them, of photos that the batch holds, what the page's copy is called, with the copy itself in `copy`.
        """
        if self._refusal:
            return _lines([{REFUSED: self._refusal}])
        rows: list[Row] = []
        copies: list[tuple[Row, bytes]] = []
        with tempfile.TemporaryDirectory() as folder:
            photos = []
            for number, (name, path, content) in enumerate(
                zip(batch["image"], batch["path"], batch["bytes"], strict=True)
            ):
                photos.append(Photo(str(name), Path(folder) / str(number) if content else Path(path)))
                if content:
                    photos[-1].path.write_bytes(content)
                    copies += _copy(photos[-1], Path(folder))
            methods = [parse_json(text, "methods") for text in batch["methods"]]
            for method in self._methods:
                asked = [one for one, which in zip(photos, methods, strict=True) if method in which]
                rows += self._asker.rows(asked, method) if asked else []
        return _lines(rows, copies)


def _lines(rows: Sequence[Row], copies: Sequence[tuple[Row, bytes]] = ()) -> dict[str, list[Any]]:
    return {
        "row": [json_text(row) for row in (*(row for row, _ in copies), *rows)],
        "copy": [*(content for _, content in copies), *(b"" for _ in rows)],
    }


def _copy(photo: Photo, folder: Path) -> list[tuple[Row, bytes]]:
    """What the page is to show of a photo, which is made in the folder; nothing of one that cannot be read."""
    from .gallery.copies import copied

    found = copied(photo, folder)
    return [] if found is None else [({COPY: found["file"]}, (folder / found["file"]).read_bytes())]
