"""One method at several configurations: which runs that is, and running them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from scr import ConfigError

from ..running.methods import BASELINE
from ..running.outcomes import Outcome
from ..running.plan import Plan, RunConfig, build_plan
from ..running.runner import run_plan


class Factor(NamedTuple):
    """A field of the method's configuration, `NAME.FIELD` in a combination, and the values that it takes."""

    name: str
    values: tuple[Any, ...]


class Variation(NamedTuple):
    """One configuration of the sweep: what it sets beside the base, and where its records lie.

    Attributes:
        fields: factor → value; empty for the base.
        digests: task → digest of the run's folder.
    """

    fields: dict[str, Any]
    digests: dict[str, str]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sweep:
    """What a command will run.

    Attributes:
        plan: all runs, each once, the baseline of every task first and the base configuration after it.
        base: the base configuration.
        tables: title → its settings, in the order given; the base is not among them unless a value is its own.
    """

    plan: Plan
    base: Variation
    tables: dict[str, tuple[Variation, ...]]


def label(fields: Mapping[str, Any]) -> str:
    """Values of factors as they are written on the command line."""
    return ", ".join(f"{name}={value_text(value)}" for name, value in fields.items())


def value_text(value: Any) -> str:
    """A value as it is written on the command line."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def build_sweep(config: RunConfig, factors: Sequence[Factor], cross: bool = False) -> Sweep:
    """Check every value, and lay out the runs; no weights are loaded.

    Args:
        config: the command, with one method; its `method_args` make the base configuration.
        factors: what is varied.
        cross: take all combinations instead of one factor at a time.

    Raises:
        ConfigError: for factors that contradict each other or the base, an unknown field, or a value out of range.
        SCRError, UnknownTaskError, ...: as `benchmarks.running.plan.build_plan`.
    """
    _check(config, factors)
    tables: dict[str, list[dict[str, Any]]] = {one.name: [{one.name: v} for v in one.values] for one in factors}
    if cross:
        every = itertools.product(*(factor.values for factor in factors))
        tables = {
            " × ".join(tables): [dict(zip((one.name for one in factors), values, strict=True)) for values in every]
        }
    first = build_plan(config)
    base = Variation({}, _digests(first))
    merged = {cell.folder.path: cell for cell in first.cells}
    tasks = {cell.work.task.name: cell.work for cell in first.cells}
    found: dict[str, tuple[Variation, ...]] = {}
    for title, settings in tables.items():
        planned = []
        for fields in settings:
            plan = build_plan(replace(config, method_args={**config.method_args, **fields}))
            planned.append(Variation(fields, _digests(plan)))
            for cell in plan.cells:
                # The samples of one task are one object, by which the runner finds a run's baseline.
                same = replace(cell, work=tasks[cell.work.task.name], row=label(fields))
                merged.setdefault(cell.folder.path, same)
        found[title] = tuple(planned)
    order = list(tasks)
    cells = sorted(merged.values(), key=lambda cell: order.index(cell.work.task.name))
    return Sweep(plan=replace(first, cells=tuple(cells)), base=base, tables=found)


def run_sweep(sweep: Sweep, report: Callable[[str], None] = lambda line: None) -> list[Outcome]:
    """The outcomes of a sweep's runs; what is recorded is taken from the store.

    Raises:
        RunFailedError: as `benchmarks.running.runner.run_plan`.
    """
    return run_plan(sweep.plan, report)


def _check(config: RunConfig, factors: Sequence[Factor]) -> None:
    """Refuse what would compare a configuration with itself, or run something else than what is asked for."""
    method = config.methods[0] if len(config.methods) == 1 else ",".join(config.methods)
    if method == BASELINE or "," in method:
        raise ConfigError(
            f"nothing to vary: got method {method!r}; expected one other than {BASELINE}. Name one, or A+B for both."
        )
    keys = [one.name for one in factors]
    if twice := sorted({name for name in keys if keys.count(name) > 1}):
        raise ConfigError(
            f"a factor twice: got {twice[0]!r}; expected each once. Give all of its values to one --vary."
        )
    for name in keys:
        hiding = [other for other in (*config.method_args, *keys) if other.endswith(f".{name}")]
        if "." not in name and hiding:
            raise ConfigError(
                f"a factor without effect: got {name!r} beside {hiding[0]!r}, which wins over it; expected one of "
                f"both. Vary {hiding[0]!r}, or leave it out."
            )


def _digests(plan: Plan) -> dict[str, str]:
    """Task → digest of the method's run, which comes after those of the baseline."""
    return {cell.work.task.name: cell.folder.digest for cell in plan.cells if cell.method == plan.config.methods[0]}
