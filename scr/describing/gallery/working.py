"""Describe what is not described yet, a few photos at a time, beside other processes that do the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from ...command.progress import Progress
from .photos import Photo
from .records import Records, Row

WAIT = 1.0
"""Seconds between two looks at photos that other processes hold."""

Describe = Callable[[Sequence[Photo], str], list[Row]]
"""Photos, and the name of a method → a row for each: `image`, `method`, and the fields of a `Description`."""


def describe_missing(
    records: Records,
    photos: Sequence[Photo],
    methods: Sequence[str],
    describe: Describe,
    *,
    batch_size: int,
    report: Callable[[str], None],
) -> None:
    """Add the lines that are missing: all methods of a photo before the next ones, so that they can be compared early.

    Photos that another process describes are waited for: should it end before, they are described here.

    Args:
        records: what is described already; begun.
        photos: all that are wanted.
        methods: likewise.
        describe: is given photos, none of which another process describes.
        batch_size: most photos at a time.
        report: is told how far it is, where there is no terminal.

    Raises:
        OSError: where lines cannot be written.
    """
    paths = {photo.name: photo for photo in photos}
    missing = records.missing(paths, methods)
    left = _count(missing)
    with Progress("photos", left, report, unit="descriptions") as progress:
        while missing:
            with records.claimed(missing, batch_size) as mine:
                if not mine:
                    time.sleep(WAIT)
                # Looked at again: between the look above and the claim another process may have described them.
                lacking = records.missing(mine, methods)
                for method in methods:
                    if asked := [paths[name] for name in lacking if method in lacking[name]]:
                        records.add(describe(asked, method))
                        progress.update(len(asked))
                        left -= len(asked)
            missing = records.missing(paths, methods)
            progress.update(left - _count(missing))  # what other processes have described
            left = _count(missing)


def _count(missing: Mapping[str, Sequence[str]]) -> int:
    return sum(map(len, missing.values()))
