"""One method at several configurations: `python -m benchmarks.sweep --vary scale=1.0,1.1,1.2 --vary num_sources=4,16`.

One field at a time is moved away from a base configuration, or all of them at once with `--cross`. The runs are those
of `benchmarks.run`, in the same store: what is recorded is not computed again, and run.json holds each configuration.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .printing.arguments import (
    Parser,
    add_model,
    all_or_positive,
    guarded,
    json_or_text,
    key_value,
    names,
    positive,
    short,
    whole,
)
from .running.prompts import PROMPTS

if TYPE_CHECKING:
    from .running.plan import Plan, RunConfig

# torch is imported below, in the functions that need it, so that --help and a mistyped flag answer at once.

_EPILOG = """examples:
  python -m benchmarks.sweep --vary scale=1.0,1.05,1.1,1.2,1.5 --vary num_sources=4,8,16
  python -m benchmarks.sweep --vary 'layers=[0,2],[0,4],[2,6]' --vary selection=top_k,greedy --vary include_border=true
  python -m benchmarks.sweep --method purified --vary contrast=0.2,0.6,1 --vary image_keep=0.1,0.3,0.5,0.7
  python -m benchmarks.sweep --vary scale=1.1,1.5 --vary radius=1,2 --cross --method-arg num_sources=8
  python -m benchmarks.sweep --method scr+purified --vary purified.contrast=0.3,0.6

Values are JSON, with commas between them; a comma inside brackets, braces or quotation marks belongs to the value: a
run of blocks is [0,4], the first and the one after the last. What is no JSON is a string. The base configuration is the
method's own, with --method-arg and, for a lab model, its settings. All values are checked before anything runs.
"""


class Factor(NamedTuple):
    """A field of the method's configuration, `NAME.FIELD` in a combination, and the values that it takes."""

    name: str
    values: tuple[Any, ...]


class Setting(NamedTuple):
    """A configuration of the sweep: what it sets beside the base, and where its records lie.

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
    base: Setting
    tables: dict[str, tuple[Setting, ...]]


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
    from .running.plan import build_plan

    _check(config, factors)
    tables: dict[str, list[dict[str, Any]]] = {one.name: [{one.name: v} for v in one.values] for one in factors}
    if cross:
        every = itertools.product(*(factor.values for factor in factors))
        tables = {
            " × ".join(tables): [dict(zip((one.name for one in factors), values, strict=True)) for values in every]
        }
    first = build_plan(config)
    base = Setting({}, _digests(first))
    merged = {cell.folder.path: cell for cell in first.cells}
    tasks = {cell.plan.task.name: cell.plan for cell in first.cells}
    found: dict[str, tuple[Setting, ...]] = {}
    for title, settings in tables.items():
        planned = []
        for fields in settings:
            plan = build_plan(replace(config, method_args={**config.method_args, **fields}))
            planned.append(Setting(fields, _digests(plan)))
            for cell in plan.cells:
                # The samples of one task are one object, by which the runner finds a run's baseline.
                same = replace(cell, plan=tasks[cell.plan.task.name], row=label(fields))
                merged.setdefault(cell.folder.path, same)
        found[title] = tuple(planned)
    order = list(tasks)
    cells = sorted(merged.values(), key=lambda cell: order.index(cell.plan.task.name))
    return Sweep(plan=replace(first, cells=tuple(cells)), base=base, tables=found)


def run_sweep(sweep: Sweep, report: Callable[[str], None] = lambda line: None) -> list[Any]:
    """The outcomes of a sweep's runs; what is recorded is taken from the store.

    Raises:
        RunFailedError: as `benchmarks.running.runner.run_plan`.
    """
    from .running.runner import run_plan

    return list(run_plan(sweep.plan, report))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        0 if all went well, 1 if a run failed, 2 for an argument or input that cannot be used, 130 if interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(
        lambda: _run(build_parser().parse_args(arguments), arguments), "interrupted; the same command goes on from here"
    )


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.sweep",
        description="Run one method at several configurations, and compare each with the unpatched model and the base.",
        epilog=_EPILOG,
        old_names={"--prompt": "--prompt-variant"},
    )
    what = parser.add_argument_group("what to vary").add_argument
    what("--vary", type=factor, action="append", required=True, metavar="[NAME.]K=V[,V]", help="a field and its values")
    what("--cross", action="store_true", help="all combinations, instead of one field at a time")
    what("--method", default="scr", metavar="NAME", help="the method (%(default)s); A+B is both")
    what("--method-arg", type=key_value, action="append", default=[], metavar="[NAME.]K=V",
         help="field of the base configuration")  # fmt: skip
    group = parser.add_argument_group("as benchmarks.run")
    add_model(group)
    how = group.add_argument
    how("--prompt-variant", dest="prompt", default="default", metavar="NAME",
        help=f"what is added to a question: {', '.join(PROMPTS)} (%(default)s)")  # fmt: skip
    how("--tasks", type=names, default=("pope_adversarial", "chair"), metavar="NAME[,NAME]",
        help="tasks or groups (pope_adversarial,chair)")  # fmt: skip
    how("--limit", type=all_or_positive, default=100, metavar="N", help="number of images, or 'all' (100)")
    how("--data-dir", type=Path, metavar="DIR", help="COCO layout; default: the lab's own, for a lab model")
    how("--split", metavar="NAME", help="which annotations (the lab: test)")
    how("--output-dir", type=Path, default=Path("results"), metavar="DIR", help="where records go (%(default)s)")
    how("--batch-size", type=positive, default=50, metavar="N", help="samples per batch (%(default)s)")
    how("--seed", type=whole, default=0, metavar="N", help="of the questions drawn, and of sampling (%(default)s)")
    how("--gen-kwarg", type=key_value, action="append", default=[], metavar="K=V", help="argument of generate (greedy)")
    how("--dry-run", action="store_true", help="print what would run")
    return parser


def factor(text: str) -> Factor:
    """Read NAME=VALUE,VALUE; a comma inside brackets, braces or quotation marks belongs to the value."""
    name, equals, rest = text.partition("=")
    if not name.strip() or not equals or not rest.strip():
        raise argparse.ArgumentTypeError(f"got {short(text)}; expected FIELD=VALUE,VALUE")
    values: list[Any] = []
    for part in _split(rest):
        if not part.strip():
            raise argparse.ArgumentTypeError(f"got {short(text)}; expected a value before and after each comma")
        value = json_or_text(part.strip())
        if not any(_same(value, other) for other in values):
            values.append(value)
    return Factor(name.strip(), tuple(values))


def _run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    from .printing.sweep_table import print_dry, print_sweep
    from .running.plan import RunConfig
    from .running.provenance import command_line
    from .running.ranks import find_world

    find_world(expected=1)
    config = RunConfig(
        model=options.model,
        revision=options.revision,
        dtype=options.dtype,
        device=options.device,
        methods=(options.method,),
        method_args=dict(options.method_arg),
        prompt=options.prompt,
        tasks=options.tasks,
        limit=options.limit,
        batch_size=options.batch_size,
        seed=options.seed,
        generation=dict(options.gen_kwarg),
        data_dir=options.data_dir,
        split=options.split,
        output_dir=options.output_dir,
        command=command_line(arguments, "benchmarks.sweep"),
    )
    sweep = build_sweep(config, options.vary, options.cross)
    if options.dry_run:
        print_dry(sweep)
        return 0
    print_sweep(sweep, run_sweep(sweep, lambda line: print(line, file=sys.stderr, flush=True)))
    return 0


def _check(config: RunConfig, factors: Sequence[Factor]) -> None:
    """Refuse what would compare a configuration with itself, or run something else than what is asked for."""
    from scr import ConfigError

    from .running.methods import BASELINE

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
    return {cell.plan.task.name: cell.folder.digest for cell in plan.cells if cell.method == plan.config.methods[0]}


def _split(text: str) -> list[str]:
    """The parts between commas that are in no bracket and no quotation marks."""
    parts, depth, quoted, escaped = [""], 0, False, False
    for letter in text:
        if letter == "," and depth == 0 and not quoted:
            parts.append("")
            continue
        parts[-1] += letter
        if letter == '"' and not escaped:
            quoted = not quoted
        elif not quoted:
            depth += (letter in "[{(") - (letter in "]})")
        escaped = letter == "\\" and not escaped
    return parts


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


if __name__ == "__main__":
    sys.exit(main())
