"""What tasks on a benchmark's own files share: opening them, finding the images, and comparing sums of scores."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os.path import isfile
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from scr.files import read_bytes

from ..records import SampleRecord
from ..stats import Comparison, compare_tables
from .base import Sample, Task

Content = TypeVar("Content")


@dataclass(frozen=True, kw_only=True, eq=False)
class OfficialData(Generic[Content]):
    """A benchmark's own files, read.

    Attributes:
        folder: where they lie.
        sha256: digest of the files that hold questions and annotations.
        content: what the task makes of them.
        split: there is one only.
    """

    folder: Path
    sha256: str
    content: Content
    split: str = "all"


def refuse_split(split: str | None, name: str) -> None:
    """Such data have no splits.

    Raises:
        ConfigError: for one that was asked for.
    """
    if split is not None:
        from scr import ConfigError

        raise ConfigError(f"{name} has no splits: got {split!r}; expected none. Leave out --split.")


def require_files(paths: Iterable[Path], files: str) -> None:
    """Check that files are there.

    Raises:
        ConfigError: naming the first that is not, and what the folder should hold.
    """
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        from scr import ConfigError

        raise ConfigError(f"no data: got no file {missing}; expected {files}. Give another --data-dir.")


def digest(folder: Path, paths: Iterable[Path]) -> str:
    """SHA-256 of files with their names and lengths, so that two files never read like one.

    Raises:
        DataFileError: for a file that cannot be read.
    """
    found = hashlib.sha256()
    for path in paths:
        content = read_bytes(path)
        name = path.relative_to(folder).as_posix()
        found.update(f"{name}:{len(content)}:".encode("utf-8", "surrogateescape") + content)
    return found.hexdigest()


def find_images(names: Iterable[str], places: Sequence[Path], files: str) -> dict[str, Path]:
    """Name → file, all in the first of some folders that has the first name.

    Raises:
        ConfigError: naming the first image that is not there.
    """
    wanted = list(dict.fromkeys(names))
    place = next((one for one in places if wanted and isfile(one / wanted[0])), places[0])
    # os.path's, which takes any name: Path's raises for one that is too long.
    missing = [name for name in wanted if not isfile(place / name)]
    if missing:
        from scr import ConfigError

        raise ConfigError(
            f"images are missing: got no {place / missing[0]} ({len(missing)} of {len(wanted)} are not there); "
            f"expected {files}. Put them in {' or '.join(map(str, places))}."
        )
    return {name: place / name for name in wanted}


def grouped(samples: Iterable[Sample]) -> list[Sample]:
    """The samples of one unit together, units in the order in which they first come."""
    units: dict[str, list[Sample]] = {}
    for sample in samples:
        units.setdefault(sample.unit_key, []).append(sample)
    return [sample for together in units.values() for sample in together]


def sum_of_ratios(
    above: NDArray[np.float64], below: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Numerators and denominators, (n,) each, of one ratio that equals the sum of k ratios; (n, k) twice.

    Each ratio has the weight that makes its denominators 1 in sum, and the sum is undefined where one of them is. In a
    resample, which has more of one part and less of another, the ratio is the mean over what was drawn, times k: its
    interval is a little wider than one of a resampling part by part.
    """
    totals = below.sum(axis=0)
    if not totals.all():
        return np.zeros(len(above)), np.zeros(len(above))
    return (above / totals).sum(axis=1), (below / totals).mean(axis=1)


def compare_shared(task: Task, baseline: Sequence[SampleRecord], method: Sequence[SampleRecord]) -> Comparison:
    """`Task.compare` where what a sample contributes depends on the others: the tables are of shared samples alone.

    Raises:
        ValueError: as `Task.compare`.
    """
    shared = {record.id for record in baseline} & {record.id for record in method}
    runs = [[record for record in records if record.id in shared] for records in (baseline, method)]
    if not shared:  # compare_tables says it better
        runs = [list(baseline), list(method)]
    found = compare_tables(*(task.table(records) for records in runs))
    left = len(baseline) + len(method) - sum(map(len, runs))
    return dataclasses.replace(found, unpaired=found.unpaired + left)
