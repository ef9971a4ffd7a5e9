"""Describe photos on many machines or GPUs: Ray reads which ones and hands them out, actors with a model each describe.

Placement, retries and back-pressure are Ray's. Rows come back to where the command was started, which keeps them as one
process does: so they are the same, and what was interrupted goes on, with or without Ray.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..command.progress import Progress
from ..errors import ConfigError, MissingPackageError
from ..files import json_text, parse_json
from .actor import COPY, REFUSED, Describer
from .gallery.photos import Photo, find_photos
from .gallery.records import Records
from .listed import check_columns, item

_TABLES = {".parquet": "read_parquet", ".jsonl": "read_json"}


@contextlib.contextmanager
def connected(address: str | None, cpus: int) -> Iterator[Cluster]:
    """A cluster, inside the `with`.

    Args:
        address: Ray's, of one that runs; None makes one of this machine.
        cpus: cores for each actor, where there is no GPU.

    Raises:
        MissingPackageError: without Ray.
        ConfigError: where nothing answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingPackageError(
            "--ray needs ray: got none installed; expected ray[data] ≥ 2.50. Run `pip install 'ray[data]'`, or in a "
            'checkout `pip install -e ".[ray]"`.'
        ) from error
    # One core more than there is: actors may take all, and what lists and reads for them needs one, too.
    own = {"include_dashboard": False, "num_cpus": _cores() + 1} if address is None else {}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="error", **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"no cluster: got {address!r} ({' '.join(str(error).split())[:200]}); expected the address of one that "
            "runs. Check it, or leave --address out."
        ) from error
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        yield Cluster(ray, cpus)
    finally:
        ray.shutdown()


class Cluster:
    """Where actors run; use `connected`."""

    def __init__(self, ray: Any, cpus: int) -> None:
        """No actor is made yet.

        Args:
            ray: the module, initialised.
            cpus: see `connected`.
        """
        self._ray, self._cpus = ray, cpus
        self._table: Any = None

    @property
    def device(self) -> str:
        """What each actor has: "cuda", a GPU, where the cluster has any; else "cpu", cores."""
        return "cuda" if self._count("GPU") else "cpu"

    def find_photos(self, given: Sequence[Path], without: Path) -> list[Photo]:
        """The photos that are meant: those in folders, or the rows of one table, by name.

        A table is a file or folder that ends in .parquet or .jsonl, with a column `image` or `path`, or both: what a
        photo is called, and where it lies; and `bytes`, where the table holds the pictures' files themselves, as base64
        in JSON. `image` may be what `datasets` makes of a picture, too: a struct of `bytes` and `path`.

        Args:
            given: folders and files, which all machines see; or a table.
            without: see `scr.describing.gallery.photos.find_photos`.

        Raises:
            ConfigError: as `find_photos`; for a table without these columns, with other things in them, or with a photo
                that has no name; for one beside something else.
        """
        if not any(one.suffix.lower() in _TABLES for one in given):
            return find_photos(given, without=without)
        if len(given) > 1:
            raise ConfigError(
                f"a table beside others: got {[str(one) for one in given]}; expected it alone. Give one at a time."
            )
        table = given[0].absolute()
        if not table.exists():
            raise ConfigError(f"no such table: got {str(table)!r}; expected a file or folder. Check the path.")
        read = getattr(self._ray.data, _TABLES[table.suffix.lower()])(str(table), ray_remote_args={"num_cpus": 0})
        check_columns(read.schema(), table)
        place = os.getcwd()
        self._table = read.map(lambda row: item(row, place), num_cpus=0)
        rows = list(self._table.drop_columns(["bytes"]).iter_rows())
        names = {row["image"] for row in rows}
        if "" in names:
            raise ConfigError(
                f"a photo without a name: got a row of {table} with no image and no path; expected one of them in each "
                "row. Add a column path."
            )
        if len(names) < len(rows):
            raise ConfigError(f"two photos have one name: got {table}; expected each name once. Make them differ.")
        # A picture that the table holds lies in no folder. Ray reads rows in any order.
        return sorted(
            Photo(row["image"], Path(row["path"] or f"{table}/{row['image']}"), row["digest"] or None) for row in rows
        )

    def revision(self, model: str) -> str | None:
        """What names a model's state, as `scr.checkpoints.chosen.load_chosen` does, without loading it.

        Raises:
            ModelLoadError: for a model that is not there.
        """
        from ..checkpoints.chosen import find_model
        from ..checkpoints.loading import load_config

        location, digest = find_model(model)
        return digest or getattr(load_config(location, name=model), "_commit_hash", None)

    def describe_missing(
        self,
        records: Records,
        photos: Sequence[Photo],
        methods: Sequence[str],
        *,
        model: tuple[str, str],
        asked: tuple[Any, ...],
        batch_size: int,
        report: Callable[[str], None],
    ) -> None:
        """Add the lines that are missing, as `scr.describing.gallery.working.describe_missing`, in the order they come.

        Of pictures that a table holds the page's copies are made, too: where it was started nobody else has them.

        Args:
            records: what is described already; begun, and inside `Records.alone`.
            photos: as `find_photos` found them.
            methods: all that are wanted.
            model: its name and its dtype; every actor loads it.
            asked: arguments of `Asker` after the model and its processor.
            batch_size: most photos at a time.
            report: is told how far it is, where there is no terminal.

        Raises:
            ConfigError: for too few cores, and for what an actor refused, in its words.
            OSError: where lines or copies cannot be written.
        """
        from .gallery.copies import has_copy, keep_copy

        missing = records.missing((photo.name for photo in photos), methods)

        def uncopied(photo: Photo) -> bool:
            return photo.held is not None and not has_copy(photo.name, records.folder)

        wanted = [photo for photo in photos if photo.name in missing or uncopied(photo)]
        if not wanted:
            return
        gpus, cores = self._count("GPU"), self._count("CPU")
        # With no core left to list and read what they wait for, they would wait for ever.
        actors = gpus or (cores - 1) // self._cpus
        if actors < 1:
            raise ConfigError(
                f"too few cores: got a cluster of {cores}; expected one more than --cpus, which is {self._cpus}. "
                "Lower it, or take a larger cluster."
            )
        described = self._items(wanted, missing).map_batches(
            Describer,
            fn_constructor_args=(*model, self.device, asked, list(methods)),
            batch_size=batch_size,
            concurrency=min(actors, len(wanted)),
            **({"num_gpus": 1} if gpus else {"num_cpus": self._cpus}),
        )
        with Progress("photos", sum(map(len, missing.values())), report, unit="descriptions") as progress:
            for batch in described.iter_batches(batch_size=None, prefetch_batches=0):
                rows, copies = [], []
                for text, content in zip(batch["row"], batch["copy"], strict=True):
                    row = parse_json(text, "a row")
                    if REFUSED in row:
                        raise ConfigError(row[REFUSED])
                    if COPY in row:
                        copies.append((row[COPY], content))
                    else:
                        rows.append(row)
                if copies:
                    with records.publishing():
                        for file, content in copies:
                            keep_copy(file, content, records.folder)
                records.add(rows)
                progress.update(len(rows))

    def _count(self, kind: str) -> int:
        return int(self._ray.cluster_resources().get(kind, 0))

    def _items(self, photos: Sequence[Photo], missing: Mapping[str, Sequence[str]]) -> Any:
        """Ray's data set of photos: as `item` has them, and which methods they lack, as JSON."""
        lacking = {photo.name: json_text(missing.get(photo.name, [])) for photo in photos}
        if self._table is None:
            items = [
                {"image": one.name, "path": os.path.abspath(one.path), "bytes": b"", "methods": lacking[one.name]}
                for one in photos
            ]
            return self._ray.data.from_items(items)
        return self._table.filter(lambda row: row["image"] in lacking, num_cpus=0).map(
            lambda row: {**row, "methods": lacking[row["image"]]}, num_cpus=0
        )


def _cores() -> int:
    """Those of this machine that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
