"""A protocol run: its parts are commands of `benchmarks.run`, one after the other, with no row but those declared."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

from scr import ConfigError, UnsupportedModelError
from scr.checkpoints.digests import SETTINGS_FILE
from scr.checkpoints.loading import load_config
from scr.files import read_bytes

from ..asking.models import ModelSource, find_model
from ..running.outcomes import Outcome
from ..running.plan import Plan, RunConfig, build_plan
from ..running.provenance import timestamp
from ..running.runner import run_plan
from .declaration import Protocol
from .stamp import Stamp, write_stamp


class Machine(TypedDict, total=False):
    """Fields of `RunConfig` that say where and how fast something is run, and not what."""

    dtype: str
    device: str
    attn_implementation: str | None
    batch_size: int


def plan_parts(
    protocol: Protocol,
    data_dir: Path,
    output_dir: Path,
    *,
    model: str | None = None,
    adapter: str | None = None,
    parts: Sequence[str] = (),
    machine: Machine | None = None,
) -> list[Plan]:
    """Lay out the parts; nothing is written, and no weights are loaded.

    Args:
        protocol: what is run.
        data_dir: folder with what the protocol says.
        output_dir: where records go.
        model: a copy of the declared model, or a stand-in of its class; None takes the declared one.
        adapter: likewise, of the declared adapter.
        parts: names of parts; none takes all.
        machine: where and how fast.

    Raises:
        ConfigError: for a file of the data that is not the declared one, or settings beside the checkpoint.
        UnsupportedModelError: for a model of another class.
        ModelLoadError, ...: as `benchmarks.running.plan.build_plan`.
    """
    chosen = [protocol.part(name) for name in parts] or protocol.parts
    source = find_model(protocol.model if model is None else model)
    _check_class(source, protocol)
    if settings := source.settings.get("settings"):
        raise ConfigError(
            f"settings that {protocol.name} does not declare: got {settings} beside {source.name!r}; expected none. "
            f"Take {SETTINGS_FILE} away from there."
        )
    for name, digest in protocol.files.items():
        _check_file(data_dir / name, digest, protocol)
    return [
        build_plan(
            RunConfig(
                model=source.name,
                adapter=adapter if part.adapter is not None and adapter is not None else part.adapter,
                # What an adapter of others was trained on, its folder does not say; the records do not know either.
                allow_overlap=part.adapter is not None,
                methods=part.methods,
                tasks=part.tasks,
                limit=part.limit,
                prompt=part.prompt,
                generation=part.generation,
                seed=protocol.seed,
                data_dir=data_dir,
                split=protocol.split,
                output_dir=output_dir,
                command=f"python -m benchmarks.protocol run {protocol.name} --part {part.name}",
                **(machine or {}),
            )
        )
        for part in chosen
    ]


def stamp_of(protocol: Protocol, plans: Sequence[Plan]) -> Stamp:
    """What the folder of these parts' records will say of itself."""
    plan = plans[0]
    text = _text_config(plan.source)
    adapters = (cell.adapter for one in plans for cell in one.cells if cell.adapter is not None)
    adapter = next(adapters, None)
    return Stamp(
        protocol=protocol.name,
        version=protocol.version,
        sha256=protocol.sha256,
        rehearsal=protocol.rehearsal,
        model=plan.source.name,
        revision=plan.source.revision,
        shape={name: getattr(text, name, None) for name in protocol.shape},
        adapter=None if adapter is None else adapter.recorded,
        started=timestamp(),
    )


def run_parts(
    protocol: Protocol, plans: Sequence[Plan], report: Callable[[str], None] = lambda line: None
) -> Iterator[tuple[Plan, list[Outcome]]]:
    """Run what `plan_parts` has laid out, part by part; what is recorded is not computed again.

    Args:
        protocol: what is run.
        plans: its parts.
        report: is told what happens.

    Raises:
        ConfigError: for a folder that is of another protocol, model or adapter, or holds runs of none.
        RunFailedError: as `benchmarks.running.runner.run`.
    """
    write_stamp(plans[0].config.output_dir, stamp_of(protocol, plans))
    for plan in plans:
        yield plan, run_plan(plan, report)


def _check_class(source: ModelSource, protocol: Protocol) -> None:
    kind = load_config(source.location, name=source.name, **source.from_pretrained).model_type
    if kind != protocol.model_type:
        raise UnsupportedModelError(
            f"a model of another class: got {source.name!r}, of type {kind!r}; expected {protocol.model_type!r}, as "
            f"{protocol.model} is. Other models are run by benchmarks.run, under no protocol's name."
        )


def _text_config(source: ModelSource) -> Any:
    return load_config(source.location, name=source.name, **source.from_pretrained).get_text_config()


def _check_file(path: Path, digest: str, protocol: Protocol) -> None:
    got = hashlib.sha256(read_bytes(path)).hexdigest() if path.is_file() else None
    if got != digest:
        raise ConfigError(
            f"a file of the data is not the one that {protocol.name} declares: got {path}, "
            f"{'which is not there' if got is None else got[:12]}; expected {digest[:12]}. It takes {protocol.data}."
        )
