"""Where the pictures of a run lie. Records hold a file's name and the digest of the annotations, never a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from scr.files import read_bytes

Key = tuple[str, str]
"""Digest of a data set's annotations, and the name of one of its pictures."""


class Pictures(NamedTuple):
    """Files of the pictures that were found, and sentences about the others."""

    files: Mapping[Key, Path]
    problems: tuple[str, ...]


def lab_cache() -> Path:
    """Where the lab keeps its data, below $SCR_CACHE, $XDG_CACHE_HOME or ~/.cache; perhaps no folder."""
    if os.environ.get("SCR_CACHE"):
        return Path(os.environ["SCR_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scr-vlm"


def find_pictures(wanted: Iterable[Key], folders: Sequence[Path]) -> Pictures:
    """Look for pictures below folders, and for those of the lab in its cache.

    A data set in COCO's layout with the run's own annotations is recognised by their digest. Else a name must be that
    of one file below the folders, or of files with the same content: splits of one data set use the same names.

    Args:
        wanted: what to look for.
        folders: where; each must be a folder.
    """
    keys = set(wanted)
    files: dict[Key, Path] = {}
    for place in (lab_cache(), *folders):
        for digest, data in _coco_folders(place, {key[0] for key in keys if key not in files}):
            for key in keys:
                path = data / key[1]
                if key[0] == digest and key not in files and _is_below(path, data):
                    files[key] = path
    missing = {key for key in keys if key not in files}
    named = _files_named({name for _, name in missing}, folders) if missing else {}
    ambiguous = set()
    for key in missing:
        paths = named.get(key[1], [])
        if len(paths) == 1 or (paths and len({read_bytes(path) for path in paths}) == 1):
            files[key] = paths[0]
        elif paths:
            ambiguous.add(key[1])
    return Pictures(files, tuple(_problems(keys, files, ambiguous, folders)))


def _problems(keys: set[Key], files: Mapping[Key, Path], ambiguous: set[str], folders: Sequence[Path]) -> Iterable[str]:
    if ambiguous:
        yield (
            f"different pictures have one name: got several files called {min(ambiguous)}, and {len(ambiguous) - 1} "
            "more such names; expected one file each. Give the folder of the split that was asked about to --images."
        )
    absent = len({key for key in keys if key not in files}) - len(ambiguous)
    if absent > 0:
        where = "below --images" if folders else "in the lab's cache, and --images was not given"
        yield (
            f"pictures are missing: got {absent} of {len(keys)} names without a file {where}; expected the pictures "
            "that were asked about. Their maps stand on a plain ground; name the folder with --images."
        )


def _coco_folders(place: Path, digests: set[str]) -> Iterable[tuple[str, Path]]:
    """(digest, folder of pictures) of the data sets below a place that are among the digests."""
    if not digests or not place.is_dir():
        return
    # The folder itself, one above the pictures, the lab's world and the lab's cache.
    parts = [place.parent / "annotations"]
    parts += [path for depth in ("", "*/", "*/*/") for path in sorted(place.glob(f"{depth}annotations"))]
    for part in parts:
        for instances in sorted(part.glob("instances_*.json")):
            digest = _digest(instances)
            split = instances.stem.removeprefix("instances_")
            if digest in digests:
                yield from ((digest, part.parent / name) for name in (split, "images"))


def _digest(instances: Path) -> str:
    """What `benchmarks.run` records as `data_sha256` of a data set in COCO's layout."""
    digest = hashlib.sha256()
    for path in (instances, instances.with_name(instances.name.replace("instances_", "captions_", 1))):
        if path.is_file():
            content = read_bytes(path)
            digest.update(f"{len(content)}:".encode() + content)
    for path in sorted((instances.parent.parent / "pope").glob("*.json")):
        digest.update(path.name.encode("utf-8", "surrogateescape") + read_bytes(path))
    return digest.hexdigest()


def _files_named(names: set[str], folders: Sequence[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for folder in folders:
        for root, _, entries in os.walk(folder):
            for name in names.intersection(entries):
                path = Path(root) / name
                if path not in found.setdefault(name, []):
                    found[name].append(path)
    return found


def _is_below(path: Path, folder: Path) -> bool:
    """A record is no authority over which file is read: ".." in a name leads nowhere."""
    return os.path.isfile(path) and path.resolve().is_relative_to(folder.resolve())
