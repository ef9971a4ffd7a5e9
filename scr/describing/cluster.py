"""Describe photos on many machines or GPUs: Ray reads which ones and hands them out, actors with a model each describe.

Placement, retries and back-pressure are Ray's. Rows come back to where the command was started, which keeps them as one
process does: so they are the same, and what was interrupted goes on, with or without Ray.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..command.progress import Progress
from ..errors import ConfigError, MissingPackageError, SCRError
from ..files import json_text, parse_json
from .gallery.photos import Photo, find_photos
from .gallery.records import Records, Row

_TABLES = {".parquet": "read_parquet", ".jsonl": "read_json"}
_REFUSED = "refused"


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

    def find_photos(self, given: Sequence[Path], without: Path) -> list[Photo]:
        """The photos that are meant: those in folders, or the rows of one table.

        A table is a file or folder that ends in .parquet or .jsonl, with a column `image` or `path`, or both: what a
        photo is called, and where it lies; and `bytes`, where the table holds the pictures' files themselves.

        Args:
            given: folders and files, which all machines see; or a table.
            without: see `scr.describing.gallery.photos.find_photos`.

        Raises:
            ConfigError: as `find_photos`; for a table without these columns, or one beside something else.
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
        columns = set(read.schema().names)
        if not columns & {"image", "path"}:
            raise ConfigError(
                f"a table of something else: got {table} with {sorted(columns)}; expected a column image or path. "
                "Rename one."
            )
        place = os.getcwd()
        self._table = read.map(lambda row: _item(row, place), num_cpus=0)
        found = [Photo(row["image"], Path(row["path"])) for row in self._table.drop_columns(["bytes"]).iter_rows()]
        if len({photo.name for photo in found}) < len(found):
            raise ConfigError(f"two photos have one name: got {table}; expected each name once. Make them differ.")
        return found

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

        Args:
            records: what is described already; begun.
            photos: as `find_photos` found them.
            methods: all that are wanted.
            model: its name and its dtype; every actor loads it.
            asked: arguments of `Asker` after the model and its processor.
            batch_size: most photos at a time.
            report: is told how far it is, where there is no terminal.

        Raises:
            ConfigError: for too few cores, and for what an actor refused, in its words.
            OSError: where lines cannot be written.
        """
        missing = records.missing((photo.name for photo in photos), methods)
        if not missing:
            return
        resources = self._ray.cluster_resources()
        gpus, cores = (int(resources.get(kind, 0)) for kind in ("GPU", "CPU"))
        # With no core left to list and read what they wait for, they would wait for ever.
        actors = gpus or (cores - 1) // self._cpus
        if actors < 1:
            raise ConfigError(
                f"too few cores: got a cluster of {cores}; expected one more than --cpus, which is {self._cpus}. "
                "Lower it, or take a larger cluster."
            )
        described = self._wanted(photos, missing).map_batches(
            Describer,
            fn_constructor_args=(*model, "cuda" if gpus else "cpu", asked, list(methods)),
            batch_size=batch_size,
            concurrency=min(actors, len(missing)),
            **({"num_gpus": 1} if gpus else {"num_cpus": self._cpus}),
        )
        with Progress("photos", sum(map(len, missing.values())), report, unit="descriptions") as progress:
            for batch in described.iter_batches(batch_size=None, prefetch_batches=0):
                rows = [parse_json(text, "a row") for text in batch["row"]]
                for row in rows:
                    if _REFUSED in row:
                        raise ConfigError(row[_REFUSED])
                records.add(rows)
                progress.update(len(rows))

    def _wanted(self, photos: Sequence[Photo], missing: Mapping[str, Sequence[str]]) -> Any:
        """Ray's data set of the photos that lack lines: as `_item` has them, and of which methods."""
        if self._table is None:
            paths = {photo.name: os.path.abspath(photo.path) for photo in photos}
            items = [
                {"image": name, "path": paths[name], "bytes": b"", "methods": [*which]}
                for name, which in missing.items()
            ]
            return self._ray.data.from_items(items)
        wanted = dict(missing)
        return self._table.filter(lambda row: row["image"] in wanted, num_cpus=0).map(
            lambda row: {**row, "methods": [*wanted[row["image"]]]}, num_cpus=0
        )


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

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        """Photos → `row`: a line for each, and for each method that is asked for, as JSON."""
        if self._refusal:
            return {"row": [json_text({_REFUSED: self._refusal})]}
        rows: list[Row] = []
        with tempfile.TemporaryDirectory() as folder:
            photos = []
            for number, (name, path, content) in enumerate(
                zip(batch["image"], batch["path"], batch["bytes"], strict=True)
            ):
                place = Path(folder) / str(number) if content else Path(path)
                if content:
                    place.write_bytes(content)
                photos.append(Photo(str(name), place))
            try:
                for method in self._methods:
                    asked = [one for one, which in zip(photos, batch["methods"], strict=True) if method in which]
                    rows += self._asker.rows(asked, method) if asked else []
            except SCRError as error:
                return {"row": [json_text({_REFUSED: str(error)})]}
        return {"row": [json_text(row) for row in rows]}


def _cores() -> int:
    """Those of this machine that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _item(row: Mapping[str, Any], place: str) -> dict[str, Any]:
    path = str(row.get("path") or row["image"])
    return {"image": str(row.get("image") or path), "path": os.path.join(place, path), "bytes": row.get("bytes") or b""}
