"""`score chair`: which objects of captions, from any tool, are not in their images."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from scr import DataFileError
from scr.files import RepeatedNameError, read_json, read_rows

from ...records import SampleRecord
from ..harnesses import kept_by_lmms_eval, said_to_lmms_eval
from ..scoring import AnswerFileError, Scored, Scorer, field_of

RULES = ("chair", "wordnet")
"""Names of `benchmarks.tasks.chair.task.RULES`; that module needs nltk, which --help should not."""

_KEPT = ("coco_cap_chair_i", "coco_CIDEr", "coco_passthrough")  # metrics of lmms-eval's tasks of COCO captions
_DIGITS = 18  # of an image id that is given as text; COCO's have six


class Caption(NamedTuple):
    """A caption and its image; the text is None where the tool gave none."""

    image_id: int
    text: str | None


class _Annotations(NamedTuple):
    """What annotation files say about some images."""

    images: set[int]
    categories: dict[int, list[str]]
    references: dict[int, list[str]]


class ChairScorer(Scorer):
    """Scores captions; metrics as those of the task, see `benchmarks.tasks.chair.task.Chair`."""

    summary = (
        "CHAIR: objects in captions that are not in the image. Ground truth checked against the official object sets "
        "of 29 images, the rule wordnet against lmms-eval 0.7.3 on messy captions"
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the files and the rule."""
        parser.add_argument(
            "--captions",
            type=Path,
            required=True,
            metavar="FILE",
            help="JSON lines or a JSON array of {image_id, caption}, the official {overall, imgToEval}, or lmms-eval's "
            "samples of its captions of COCO",
        )
        parser.add_argument(
            "--annotations",
            type=Path,
            required=True,
            metavar="DIR",
            help="COCO's instances*.json and captions*.json, of all splits that the images are from",
        )
        parser.add_argument(
            "--rule",
            choices=RULES,
            default="chair",
            help="how objects are found: as the official code, or as OPERA and lmms-eval (default: chair)",
        )

        parser.add_argument(
            "--details",
            action="store_true",
            help="also say of each caption what was found in it: hallucinated words with their places [start, end), "
            "objects that are there, objects that it misses; with --json all mentions",
        )

    def score(self, options: argparse.Namespace) -> Scored:
        """Read and score.

        Raises:
            DataFileError: for a file that cannot be read, or a caption of an image without annotations.
        """
        from .task import Chair, ChairWordnet, ground_truth

        captions = read_captions(options.captions, options.allow_missing)
        wanted = {caption.image_id for caption in captions}
        annotations = read_annotations(options.annotations, wanted)
        strange = [caption.image_id for caption in captions if caption.image_id not in annotations.images]
        if strange:
            raise AnswerFileError(
                f"{options.captions}: got {len(set(strange))} images without annotations, the first is {strange[0]}; "
                f"expected images of {options.annotations}. Add the annotations of their split."
            )
        try:
            targets = {
                image: ground_truth(
                    annotations.categories.get(image, []), annotations.references.get(image, []), options.rule
                )
                for image in wanted
            }
            task = ChairWordnet() if options.rule == "wordnet" else Chair()
            records = [_record(*row, targets) for row in _numbered(captions)]
            scores = task.score(records)
            grades = {one.id: task.grade(one.target, one.output).found for one in records if one.error is None}
        except ValueError as error:  # a category that CHAIR does not know, or nltk's data is missing
            raise AnswerFileError(str(error)) from error
        without = sum(image not in annotations.references for image in wanted)
        notes = [f"{len(wanted)} images, {without} of them without reference captions"]
        if scores.counts["failed"]:
            notes.append(f"{scores.counts['failed']} of {len(captions)} captions are missing and are not scored")
        details = {name: found for name, found in grades.items() if options.details and found is not None}
        return Scored(task="chair", rule=options.rule, scores=scores, notes=notes, details=details)


def read_captions(path: Path, allow_missing: bool) -> list[Caption]:
    """The captions of a file, in its order; an image may have several.

    Raises:
        DataFileError: for a row that is no caption, or a file without any. A caption that is null is an error unless
            missing ones are allowed.
    """
    captions = []
    for number, row in enumerate(_rows(path), start=1):
        if kept := kept_by_lmms_eval(row, _KEPT):
            row = {"image_id": kept.get("image_id"), "caption": said_to_lmms_eval(row, path, number)}
        image_id = _image_id(field_of(row, "image_id", path, number, (int, str)), path, number)
        empty = allow_missing and "caption" in row and row["caption"] is None
        captions.append(Caption(image_id, None if empty else field_of(row, "caption", path, number)))
    if not captions:
        raise AnswerFileError(f"{path} has no captions: got no rows; expected one per caption. Check the file.")
    return captions


def read_annotations(folder: Path, wanted: Collection[int]) -> _Annotations:
    """What all annotation files of a folder say about the images that are wanted.

    Raises:
        DataFileError: where files are missing, or not in COCO's format.
    """
    found = _Annotations(set(), {}, {})
    paths = {kind: sorted(folder.glob(f"{kind}*.json")) for kind in ("instances", "captions")}
    for kind, files in paths.items():
        if not files:
            # Without references half of the ground truth is missing, and right mentions would count as hallucinated.
            raise AnswerFileError(
                f"no annotations: got {folder} without {kind}*.json; expected COCO's instances and captions. Put both "
                "there."
            )
        for path in files:
            data = read_json(path)
            try:
                _add(found, kind, data, wanted)
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise AnswerFileError(
                    f"{path} cannot be read: got {type(error).__name__}: {error}; expected COCO's format of {kind}. "
                    "Check the file."
                ) from error
    return found


def _add(found: _Annotations, kind: str, data: Any, wanted: Collection[int]) -> None:
    found.images.update(number for number in (int(entry["id"]) for entry in data["images"]) if number in wanted)
    names = {entry["id"]: str(entry["name"]) for entry in data["categories"]} if kind == "instances" else {}
    for entry in data["annotations"]:
        number = int(entry["image_id"])
        if number not in wanted:
            continue
        if kind == "instances":
            found.categories.setdefault(number, []).append(names[entry["category_id"]])
        else:
            found.references.setdefault(number, []).append(str(entry["caption"]))


def _rows(path: Path) -> list[Any]:
    try:
        data = read_json(path, once=True)
    except RepeatedNameError:
        raise
    except DataFileError:
        return read_rows(path)  # JSON lines, or else it names the line
    if not (isinstance(data, dict) and "imgToEval" in data):
        return read_rows(path)
    images = data["imgToEval"]
    if not isinstance(images, dict):
        raise AnswerFileError(
            f"{path}: got imgToEval of type {type(images).__name__}; expected an object of captions. Check the file."
        )
    return [{"image_id": name, **row} if isinstance(row, dict) else row for name, row in images.items()]


def _image_id(given: int | str, path: Path, number: int) -> int:
    if isinstance(given, int):
        return given
    if not given.isdecimal() or len(given) > _DIGITS:
        raise AnswerFileError(
            f"{path}, row {number}: got the image_id {given[:60]!r}; expected a number. Give COCO's image ids."
        )
    return int(given)


def _numbered(captions: Collection[Caption]) -> list[tuple[str, Caption]]:
    """Each caption with a name of its own: its image, and which of the image's captions it is."""
    seen: Counter[int] = Counter()
    named = []
    for caption in captions:
        seen[caption.image_id] += 1
        named.append((f"{caption.image_id}-{seen[caption.image_id]}", caption))
    return named


def _record(name: str, caption: Caption, targets: dict[int, list[str]]) -> SampleRecord:
    return SampleRecord(
        id=name,
        image=str(caption.image_id),
        prompt="",
        target=targets[caption.image_id],
        output=caption.text or "",
        error="no caption" if caption.text is None else None,
    )
