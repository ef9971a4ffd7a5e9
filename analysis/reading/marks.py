"""What a user has marked of what their photos show, and what each method says of the same objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scr.describing.gallery.records import SETTINGS_FILE, Key, Records, Row, object_of
from scr.errors import DataFileError
from scr.files import read_json

from .._benchmarks import SampleTable


@dataclass(frozen=True, kw_only=True, eq=False)
class Marked:
    """Descriptions and marks of the same photos.

    Attributes:
        rows: the descriptions, by photo and method; those without a text are left out.
        there: photo → object that a text about it mentions → whether it is in the photo; photos without a mark are
            left out.
        lost: how many marks are about objects that no text mentions.
    """

    rows: Mapping[Key, Row]
    there: Mapping[str, Mapping[str, bool]]
    lost: int

    @property
    def methods(self) -> list[str]:
        """Names of the methods, in the order of the descriptions."""
        return list(dict.fromkeys(method for _, method in self.rows))

    def photos(self, methods: Iterable[str]) -> list[str]:
        """Names of the photos that are marked, and that all of these methods describe."""
        wanted = list(methods)
        return [image for image in self.there if all((image, method) in self.rows for method in wanted)]

    def table(self, method: str, photos: Sequence[str]) -> SampleTable:
        """What a method says of photos: mentions of things that are not there, and things there that it mentions.

        Metrics: made_up = mentions marked "not there" / mentions that are marked, as CHAIR-i; coverage = objects marked
        "there" that it mentions / objects marked "there", whichever method mentions them.
        """
        above, below = np.zeros((len(photos), 2)), np.zeros((len(photos), 2))
        for number, image in enumerate(photos):
            there = self.there[image]
            mentions = [object_of(doubt) for doubt in self.rows[image, method]["doubts"]]
            marked = [name for name in mentions if name in there]
            present = {name for name, value in there.items() if value}
            above[number] = sum(not there[name] for name in marked), len(present.intersection(mentions))
            below[number] = len(marked), len(present)
        return SampleTable(
            ids=photos,
            images=photos,
            metrics=("made_up", "coverage"),
            numerators=above,
            denominators=below,
            correct=above[:, 0] == 0,
            answers=[self.rows[image, method]["text"] for image in photos],
        )


def read_marked(folder: Path, path: Path) -> Marked:
    """The descriptions in a folder, and marks of them.

    Args:
        folder: what `scr.describe` wrote.
        path: the file that its page saved.

    Raises:
        DataFileError: for files that cannot be read, that are no such files, or marks of another folder.
    """
    settings = read_json(folder / SETTINGS_FILE)
    rows = Records(folder).rows()
    content = read_json(path)
    if not isinstance(settings, dict) or not isinstance(content, dict) or "gallery" not in content:
        raise DataFileError(
            f"no marks: got {path}; expected what the page of {folder} saves. Open its index.html, and save them there."
        )
    if content["gallery"] != settings.get("id"):
        raise DataFileError(
            f"marks of other descriptions: got gallery {content['gallery']!r} in {path}; expected "
            f"{settings.get('id')!r}, that of {folder}. Give the folder whose page they were made on."
        )
    marks = content.get("marks")
    if not isinstance(marks, dict) or not all(
        isinstance(one, dict) and all(isinstance(value, bool) for value in one.values()) for one in marks.values()
    ):
        raise DataFileError(
            f"marks of another form: got {path}; expected photo → object → true or false. Save them on the page again."
        )
    said = {key: row for key, row in rows.items() if row["error"] is None}
    mentioned = {(image, object_of(doubt)) for (image, _), row in said.items() for doubt in row["doubts"]}
    there = {
        image: {name: value for name, value in one.items() if (image, name) in mentioned}
        for image, one in marks.items()
    }
    return Marked(
        rows=said,
        there={image: one for image, one in there.items() if one},
        lost=sum(map(len, marks.values())) - sum(map(len, there.values())),
    )
