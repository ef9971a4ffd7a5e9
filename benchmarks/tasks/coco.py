"""Images, objects and captions in the layout of COCO: `annotations/instances_<split>.json` and the image files."""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import isfile
from pathlib import Path
from typing import Any, NamedTuple

from pycocotools.coco import COCO

from scr import ConfigError, DataFileError
from scr.files import decode, parse_json, read_bytes

PREFERRED_SPLITS = ("test", "val2014", "val2017", "val")
QUESTION_FOLDER = "pope"
"""Where in a data set's folder POPE's official question files may lie."""


class CocoFormatError(DataFileError):
    """An annotation file is not in COCO's format."""


class CocoImage(NamedTuple):
    """One image: its id in the annotations and its file."""

    id: int
    path: Path


class CocoInstance(NamedTuple):
    """One instance of a category in an image.

    Attributes:
        name: of its category.
        area: of its segment, in pixels.
        box: x, y, width and height of what bounds it, in pixels.
        crowd: whether it is a group that nobody has taken apart.
    """

    name: str
    area: float
    box: tuple[float, float, float, float]
    crowd: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class CocoData:
    """One split of a data set; open it with `CocoData.open`.

    Attributes:
        folder: the data set's folder.
        split: name of the split.
        images: all images, in the order of the annotations.
        sha256: digest of the annotation files, and of official question files beside them: equal digest, equal
            questions.
        has_captions: whether there are reference captions.
    """

    folder: Path
    split: str
    images: Sequence[CocoImage]
    sha256: str
    has_captions: bool
    _objects: Mapping[int, Sequence[str]]
    _instances: Mapping[int, Sequence[CocoInstance]]
    _sizes: Mapping[int, tuple[float, float]]
    _captions: Mapping[int, Sequence[str]]

    @classmethod
    def open(cls, folder: Path, split: str | None = None) -> CocoData:
        """Read a folder with `annotations/instances_<split>.json`, images in `<split>/` or `images/`.

        Reference captions are read from `annotations/captions_<split>.json` where it exists.

        Args:
            folder: the data set's folder.
            split: name of the split; None takes the only one there, else the first there of `PREFERRED_SPLITS`.

        Raises:
            ConfigError: where the folder, the split or the images are not there, naming what is.
            DataFileError: where a file cannot be read, a `CocoFormatError` where it holds no COCO annotations.
        """
        folder = Path(folder)
        split = _choose_split(folder, split)
        files = [folder / "annotations" / f"{kind}_{split}.json" for kind in ("instances", "captions")]
        instances, digest = _read(files[0], hashlib.sha256())
        has_captions = files[1].is_file()
        captions: dict[str, Any] = {"annotations": []}
        if has_captions:
            captions, digest = _read(files[1], digest)
        for path in sorted((folder / QUESTION_FOLDER).glob("*.json")):
            digest.update(path.name.encode("utf-8", "surrogateescape") + read_bytes(path))
        try:
            coco = _indexed(instances, ("images", "annotations", "categories"))
            names = {number: str(entry["name"]) for number, entry in coco.cats.items()}
            rows = [(int(number), str(entry["file_name"])) for number, entry in coco.imgs.items()]
            sizes = {
                int(number): (float(entry["width"]), float(entry["height"]))
                for number, entry in coco.imgs.items()
                if "width" in entry and "height" in entry
            }
            # A dictionary keeps each name once, in the order of its first annotation.
            objects = {
                int(number): tuple(dict.fromkeys(names[entry["category_id"]] for entry in entries))
                for number, entries in coco.imgToAnns.items()
            }
            measured = {
                int(number): [
                    _instance(names[entry["category_id"]], entry)
                    for entry in entries
                    if "area" in entry and "bbox" in entry
                ]
                for number, entries in coco.imgToAnns.items()
            }
            texts = {
                int(number): tuple(str(entry["caption"]) for entry in entries)
                for number, entries in _indexed(captions, ("annotations",)).imgToAnns.items()
            }
        except (KeyError, TypeError, ValueError) as error:
            raise CocoFormatError(
                f"annotations of split {split!r} in {folder} cannot be read: got {type(error).__name__}: {error}; "
                "expected COCO's images, annotations and categories. Check the files."
            ) from error
        place = _image_folder(folder, split, rows)
        return cls(
            folder=folder,
            split=split,
            images=tuple(CocoImage(number, place / name) for number, name in rows),
            sha256=digest.hexdigest(),
            has_captions=has_captions,
            _objects=objects,
            _instances=measured,
            _sizes=sizes,
            _captions=texts,
        )

    def objects(self, image_id: int) -> list[str]:
        """Category names of an image, each once, in the order of its annotations; crowds count."""
        return list(self._objects.get(image_id, ()))

    def instances(self, image_id: int) -> list[CocoInstance]:
        """Instances of an image, in the order of its annotations; those without area and box are left out."""
        return list(self._instances.get(image_id, ()))

    def size(self, image_id: int) -> tuple[float, float] | None:
        """Width and height of an image in pixels; None where the annotations do not say."""
        return self._sizes.get(image_id)

    def facts(self, image_id: int, asked: str | None = None) -> dict[str, Any]:
        """What the annotations know of an image, as JSON values: see `Sample.facts`.

        Args:
            image_id: the image.
            asked: category that a question is about.

        Returns:
            `objects`, the number of categories. Of an asked one that is there and measured also `object`, about its
            largest instance (a crowd only where there is nothing else): `area`, as a share of the image's, and
            `border`, the distance of its box from the nearest border of the image, as a share of the shorter side.
        """
        facts: dict[str, Any] = {"objects": len(self._objects.get(image_id, ()))}
        there = [one for one in self._instances.get(image_id, ()) if one.name == asked]
        width, height = self._sizes.get(image_id, (0.0, 0.0))
        if there and width > 0 and height > 0:
            largest = max(there, key=lambda one: (not one.crowd, one.area))
            x, y, across, down = largest.box
            distance = max(0.0, min(x, y, width - x - across, height - y - down))
            facts["object"] = {"area": largest.area / (width * height), "border": distance / min(width, height)}
        return facts

    def captions(self, image_id: int) -> list[str]:
        """Reference captions of an image, in the order of the annotations; empty where it has none.

        Raises:
            ConfigError: where the split has no file of captions.
        """
        if not self.has_captions:
            raise ConfigError(
                f"no reference captions: got no annotations/captions_{self.split}.json in {self.folder}; expected one. "
                "Add COCO's caption annotations, or leave out tasks that need them."
            )
        return list(self._captions.get(image_id, ()))


def draw_described(data: CocoData, seed: int, most: int) -> list[CocoImage]:
    """At most so many images, drawn at random among those with reference captions.

    Raises:
        ConfigError: for a data set without captions.
    """
    described = [image for image in data.images if data.captions(image.id)]
    return random.Random(seed).sample(described, min(most, len(described)))


def _choose_split(folder: Path, split: str | None) -> str:
    paths = sorted((folder / "annotations").glob("instances_*.json"))
    found = [path.stem.removeprefix("instances_") for path in paths]
    if not found:
        raise ConfigError(
            f"no data set: got {folder} without annotations/instances_<split>.json; expected COCO's layout. "
            "Give the folder that holds annotations/ and the images."
        )
    if split is None:
        known = [name for name in PREFERRED_SPLITS if name in found]
        if len(found) > 1 and not known:
            raise ConfigError(f"which split: got none given; expected one of {', '.join(found)}. Choose with --split.")
        return found[0] if len(found) == 1 else known[0]
    if split not in found:
        raise ConfigError(
            f"unknown split: got {split!r}; expected one of {', '.join(found)}. Choose one that is there."
        )
    return split


def _read(path: Path, digest: Any) -> tuple[dict[str, Any], Any]:
    content = read_bytes(path)
    # The length keeps two files from reading like one.
    digest.update(f"{len(content)}:".encode() + content)
    data = parse_json(decode(content, path), path)
    if not isinstance(data, dict):
        raise CocoFormatError(
            f"an annotation file is no object: got {type(data).__name__} in {path}; expected COCO's. Check the file."
        )
    return data, digest


def _instance(name: str, entry: Mapping[str, Any]) -> CocoInstance:
    x, y, width, height = map(float, entry["bbox"])
    return CocoInstance(name, float(entry["area"]), (x, y, width, height), bool(entry.get("iscrowd")))


def _indexed(content: Mapping[str, Any], parts: Sequence[str]) -> COCO:
    """Annotations, by their ids. They are read before, by the reader that knows what may be wrong with a file."""
    for name in parts:
        if not isinstance(content[name], list):
            raise TypeError(f"{name} is no list")
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):  # it tells what it does
        coco.createIndex()
    if len(coco.imgs) < len(content.get("images", ())):
        raise ValueError("two images have one id")
    return coco


def _image_folder(folder: Path, split: str, rows: Sequence[tuple[int, str]]) -> Path:
    places = [folder / split, folder / "images"]
    for place in places:
        # The first image tells: looking for all 40,000 of val2014 would take longer than it is worth.
        if place.is_dir() and (not rows or isfile(place / rows[0][1])):
            return place
    first = rows[0][1] if rows else "any image"
    raise ConfigError(
        f"no images: got neither {places[0] / first} nor {places[1] / first}; expected one of them. "
        "Put the images of the split there."
    )
