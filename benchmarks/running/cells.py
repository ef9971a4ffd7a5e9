"""What a cell of a plan still lacks, who answers it, and the record that it begins with."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from scr import ConfigError
from scr.reading import AnswerTokens

from ..asking.readout import audit_readout
from ..records import DIAGNOSTICS, SCHEMA, RunRecord, SampleRecord
from .plan import Cell, Plan
from .prompts import YES_NO
from .provenance import checkout_state, package_versions, timestamp
from .questions import question


def title(cell: Cell) -> str:
    """Task and method, for messages."""
    return f"{cell.work.task.name} · {cell.row}"


class Standing(NamedTuple):
    """Where a cell's samples stand, by name.

    Attributes:
        answered: recorded, and asked as the plan asks; those that the plan does not want included.
        changed: recorded with another prompt, target or image than the plan's.
        failed: recorded as failures.
    """

    answered: set[str]
    changed: set[str]
    failed: set[str]

    @property
    def again(self) -> set[str]:
        """Those that are to be asked again."""
        return self.changed | self.failed


def standing(plan: Plan, cell: Cell) -> Standing:
    """Compare what is recorded with what the plan asks."""
    wanted = {sample.id: sample for sample in cell.work.wanted_samples}
    found = Standing(set(), set(), set())
    for record in cell.folder.each():
        sample = wanted.get(record.id)
        if sample is None:
            found.answered.add(record.id)
            continue
        asked = (question(plan, cell, sample).prompt, sample.unit_name, _plain(sample.target))
        if asked != (record.prompt, record.image, _plain(record.target)):
            found.changed.add(record.id)
        elif record.error is not None:
            found.failed.add(record.id)
        else:
            found.answered.add(record.id)
    return found


def recorded_samples(plan: Plan, cell: Cell) -> int:
    """How many of the wanted samples need not be asked."""
    answered = standing(plan, cell).answered
    return sum(sample.id in answered for sample in cell.work.wanted_samples)


def missing_batches(cell: Cell, there: Collection[str]) -> list[int]:
    """Numbers of the batches in which a wanted sample is not recorded.

    Args:
        cell: the cell.
        there: names of the samples that are recorded.
    """
    wanted = cell.work.wanted_samples
    lacking = (number for number, sample in enumerate(wanted) if sample.id not in there)
    return list(dict.fromkeys(number // cell.work.batch_size for number in lacking))


def turns(cell: Cell, batches: Sequence[int], there: Collection[str], size: int) -> dict[str, int]:
    """Who answers what: each wanted sample that is not recorded → the process whose turn it is.

    Args:
        cell: the cell.
        batches: what `missing_batches` gave.
        there: names of the samples that were recorded before.
        size: number of processes.
    """
    turn = {batch: place % size for place, batch in enumerate(batches)}
    numbered = enumerate(cell.work.wanted_samples)
    return {sample.id: turn[number // cell.work.batch_size] for number, sample in numbered if sample.id not in there}


def resuming(cell: Cell, found: Standing, before: RunRecord | None) -> str:
    """A line that says from where a run goes on."""
    line = f"{title(cell)}: goes on after {len(found.answered)} answers in {cell.folder.path}"
    if found.changed:
        line += f", and asks {len(found.changed)} again that were asked otherwise"
    if found.failed:
        line += f", and asks {len(found.failed)} again that failed"
    if before is not None and before.batch_size != cell.work.batch_size:
        line += f", with batches of {cell.work.batch_size} where {before.batch_size} were used (a near-tie can flip)"
    return line


def wanted_records(cell: Cell, records: Mapping[str, SampleRecord]) -> list[SampleRecord] | None:
    """The records of the wanted samples, in the task's order; None if one is missing."""
    found = [records[sample.id] for sample in cell.work.wanted_samples if sample.id in records]
    return found if len(found) == cell.work.wanted else None


def check_diagnosed(cell: Cell, names: Sequence[str]) -> None:
    """Check that what is recorded of a cell has the diagnostics that are asked for.

    Args:
        cell: the cell.
        names: of `benchmarks.records.DIAGNOSTICS`.

    Raises:
        ConfigError: if a sample with an image was recorded without them.
    """
    if not names:
        return
    there = {record.id: record.trace or {} for record in cell.folder.samples()}
    recorded = [sample.id for sample in cell.work.wanted_samples if sample.image is not None and sample.id in there]
    for name in names:
        lacking = sum(DIAGNOSTICS[name] not in there[sample] for sample in recorded)
        if lacking:
            raise ConfigError(
                f"records of {title(cell)} lack diagnostics: got {lacking} of {len(recorded)} answers without {name!r} "
                f"in {cell.folder.path}; expected all with. Answer them again with --overwrite, give another "
                "--output-dir, or leave --diagnostics out."
            )


def new_run(plan: Plan, cell: Cell, before: RunRecord | None, world_size: int) -> RunRecord:
    """The record with which a run begins.

    Args:
        plan: the plan.
        cell: one of its cells.
        before: the record that lies there, if the run goes on.
        world_size: number of processes.
    """
    config, task = plan.config, cell.work.task
    commit, dirty = checkout_state()
    return RunRecord(
        status="running",
        created=before.created if before is not None else timestamp(),
        command=config.command,
        model=plan.source.name,
        revision=plan.source.revision,
        family=plan.family,
        dtype=plan.dtype,
        device=_in_words(plan.device),
        attention=before.attention if before is not None else config.attn_implementation,
        method=cell.method,
        config=cell.config,
        config_given=cell.config_given,
        prompt=config.prompt,
        adapter=None if cell.adapter is None else cell.adapter.recorded,
        adapter_overlap=None if cell.adapter is None else cell.overlap,
        task=task.name,
        task_version=task.version,
        rule=task.rule,
        ability=task.ability,
        data_sha256=cell.work.data_sha256,
        limit=config.limit,
        seed=config.seed,
        generation=cell.generation,
        batch_size=config.batch_size,
        world_size=world_size,
        commit=commit,
        dirty=dirty,
        packages=package_versions(),
        readout=before.readout if before is not None else None,
    )


def kept_run(plan: Plan, cell: Cell, before: RunRecord) -> RunRecord:
    """The record of a run all of whose answers are there: how they were made is what it says, and not this command.

    Args:
        plan: the plan.
        cell: one of its cells.
        before: the record that lies there.
    """
    task = cell.work.task
    return dataclasses.replace(
        before,
        schema=SCHEMA,
        error=None,
        adapter_overlap=None if cell.adapter is None else cell.overlap,
        rule=task.rule,
        ability=task.ability,
        limit=plan.config.limit,
    )


def tell_model(run: RunRecord, cell: Cell, model: Any, tokens: AnswerTokens, mapped: bool) -> None:
    """Put into a run's record what only the loaded model tells.

    Args:
        run: the record.
        cell: what it is of.
        model: the model.
        tokens: what its margins are read from.
        mapped: whether it is spread over devices by a device map.
    """
    run.attention = model.config._attn_implementation
    if mapped:
        run.device = mapped_in_words(model)
    if cell.work.task.kind == YES_NO and tokens.reason is not None:
        run.reasons["margin"] = tokens.reason
    elif cell.work.task.kind == YES_NO:
        run.readout = audit_readout([], tokens.yes, tokens.no)


def mapped_in_words(model: Any) -> str:
    """The devices over which a device map has spread a model."""
    places = dict.fromkeys(str(place) for place in getattr(model, "hf_device_map", {"": model.device}).values())
    return f"device map over {', '.join(f'cuda:{place}' if place.isdecimal() else place for place in places)}"


def _plain(target: Any) -> str:
    """A target as JSON text, in which tuples and lists are one."""
    return json.dumps(target, sort_keys=True)


def _in_words(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device}: {torch.cuda.get_device_name(device)}"
    return f"{device}, {torch.get_num_threads()} threads"
