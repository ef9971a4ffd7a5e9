"""A folder to hand in: the records of a protocol's rows, where they come from, a table, and no image."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from scr import ConfigError
from scr.files import read_bytes, read_json, write_json, write_text

from ..store import RUN_FILE, SAMPLES_FILE
from .declaration import Protocol
from .examine import Examination
from .stamp import STAMP_FILE, Stamp
from .table import as_markdown

MANIFEST_FILE = "manifest.json"
TABLE_FILE = "table.md"


def hand_in(folder: Path, output: Path, protocol: Protocol, stamp: Stamp, found: Examination) -> list[Path]:
    """Copy the records of all rows that were run to their end, and write the table and the manifest beside them.

    Args:
        folder: what `run` wrote.
        output: a new folder.
        protocol: what was run.
        stamp: the folder's stamp.
        found: what lies in the folder.

    Returns:
        The files.

    Raises:
        ConfigError: for a folder that is there already, or records that are not what was declared.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"a folder that is not empty: got {output}; expected a new one. Give another --output.")
    if found.wrong or not found.measured:
        problem = found.wrong[0] if found.wrong else "no row was run to its end."
        raise ConfigError(
            f"nothing to hand in: got {len(found.wrong)} problems and {len(found.measured)} finished rows in {folder}; "
            f"expected rows as declared. {problem}"
        )
    output.mkdir(parents=True, exist_ok=True)
    names = [STAMP_FILE]
    for where in dict.fromkeys(one.folder for one in found.measured):
        (output / where).mkdir(parents=True)
        names += [str(where / RUN_FILE), str(where / SAMPLES_FILE)]
    for name in names:
        shutil.copyfile(folder / name, output / name)
    write_text(output / TABLE_FILE, as_markdown(protocol, stamp, found))
    files = {name: _sha256(output / name) for name in sorted([*names, TABLE_FILE])}
    write_json(output / MANIFEST_FILE, {**_provenance(found), "files": files})
    return [output / name for name in (*files, MANIFEST_FILE)]


def unlike_manifest(folder: Path) -> list[str]:
    """What of a folder that was handed in is not as its manifest has it; nothing of a folder without one.

    Raises:
        DataFileError: for a manifest that cannot be read.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return []
    content = read_json(path)
    declared = content.get("files") if isinstance(content, Mapping) else None
    if not isinstance(declared, Mapping):
        return [f"{MANIFEST_FILE} lists no files: got {type(content).__name__}; expected what `render` writes."]
    return list(_unlike(folder, declared))


def _unlike(folder: Path, declared: Mapping[str, Any]) -> Iterator[str]:
    there = {str(one.relative_to(folder)) for one in folder.rglob("*") if not one.is_dir()} - {MANIFEST_FILE}
    for name in sorted(there - set(declared)):
        yield f"a file that {MANIFEST_FILE} does not list: got {name}; expected records alone. Take it away."
    for name in sorted(set(declared) - there):
        yield f"a file is missing: got no {name}; expected it, as {MANIFEST_FILE} lists it. Hand it in too."
    for name in sorted(there & set(declared)):
        if (got := _sha256(folder / name)) != declared[name]:
            yield f"{name} was changed: got {got[:12]}; expected {str(declared[name])[:12]}. Render the folder again."


def _provenance(found: Examination) -> dict[str, Any]:
    """Where the records come from: what they share once, what they do not share all of it."""
    runs = [one.run for one in found.measured]
    return {
        "models": sorted({f"{run.model}@{run.revision}" for run in runs}),
        "adapters": _each(run.adapter for run in runs),
        "data": {run.task: run.data_sha256 for run in runs},
        "devices": _each(run.device for run in runs),
        "dtypes": _each(run.dtype for run in runs),
        "attention": _each(run.attention for run in runs),
        "commits": _each(f"{run.commit}{' and changes' if run.dirty else ''}" for run in runs if run.commit),
        "packages": {name: _each(run.packages.get(name) for run in runs) for name in sorted(runs[0].packages)},
    }


def _each(values: Iterable[str | None]) -> list[str]:
    return sorted({one for one in values if one is not None})


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_bytes(path)).hexdigest()
