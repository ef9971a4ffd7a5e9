"""What only a GPU can show: `python -m benchmarks.gpu_check --output FOLDER`.

Parts run one after the other; each has a table, or a reason why there is none. What is done is written after every
part, so that an interrupt or a crash of the driver loses one part alone, and parts of an earlier run stay.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scr.errors import ConfigError, suggestion
from scr.files import write_json, write_text

from ..printing.arguments import Parser, guarded, names, positive
from .keeping import RESULTS_FILE, with_earlier
from .table import as_markdown

# torch is imported below, in the functions that need it, so that --help and a mistyped flag answer at once.


class Part(NamedTuple):
    """One thing to check.

    Attributes:
        title: of its table.
        measure: the function `module.name` below this package, from a `Bench` to rows.
    """

    title: str
    measure: str


# Name → part, in the order in which they run: what nothing else can tell first.      ← the only line to add for a part
PARTS: dict[str, Part] = {
    "cost": Part("Time and memory", "cost.measure_cost"),
    "kernels": Part("Attention kernels", "kernels.measure_kernels"),
    "precision": Part("Plans in lower precision", "precision.measure_precision"),
    "placement": Part("A model in two places", "placement.measure_placement"),
    "compiled": Part("Compiled decoding", "compiled.measure_compiled"),
    "quantised": Part("Quantised weights", "quantised.measure_quantised"),
}
_EPILOG = f"""parts: {", ".join(PARTS)}

examples:
  python -m benchmarks.gpu_check --output gpu
  python -m benchmarks.gpu_check --output gpu --part kernels,precision
  python -m benchmarks.gpu_check --output mechanics --scale tiny --device cpu

It writes gpu_check.json and gpu_check.md; parts that an earlier run left there stay. Models have random weights in the
shapes of real ones, and the lab's own is trained: no checkpoint is needed. The full scale, for a GPU, has 7 billion
parameters, and float32 of it takes 28 GB.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        0 if every part was measured or skipped, 1 if one failed, 2 for an argument that cannot be used, 130 if
        interrupted.
    """
    return guarded(lambda: _run(build_parser().parse_args(argv)), "interrupted; the parts that are complete are kept")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.gpu_check",
        description="Check on a GPU, in 20 minutes, what no CPU can tell.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="DIR", help="where the tables go")
    add("--parts", type=names, default=tuple(PARTS), metavar="NAME[,NAME]", help="which (all)")
    add("--shape", default="llava", metavar="NAME", help="llava, qwen2_vl, internvl (%(default)s)")
    add("--scale", default="auto", metavar="NAME", help="tiny, small, full or auto: full on a GPU, else small")
    add("--device", default="auto", help="cuda, cuda:N, cpu or auto (a GPU if there is one)")
    add("--rounds", type=positive, default=5, metavar="N", help="how often what is timed is timed (%(default)s)")
    add("--pictures", type=positive, default=24, metavar="N", help="shown to the trained model (%(default)s)")
    add("--minutes", type=positive, default=20, metavar="N", help="after which no part begins (%(default)s)")
    return parser


def check(
    bench: Any,
    parts: Sequence[str],
    *,
    seconds: float,
    keep: Callable[[Mapping[str, Any]], None],
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Measure the parts, one after the other.

    Args:
        bench: a `benchmarks.gpu_check.bench.Bench`.
        parts: names in `PARTS`.
        seconds: after which no part begins.
        keep: is given what was found so far, before the first part and after every one.
        clock: tells seconds.

    Returns:
        JSON values: `machine`, and `parts`, each with `rows`, or with `skipped` or `failed` and the reason.
    """
    import torch

    from ..overhead.command import machine, machine_line
    from ..overhead.models import SHAPES
    from .bench import REASONS, reason

    where = machine(bench.device, torch.get_num_threads())
    model = f"models in the {bench.scale} shape of {SHAPES[bench.shape].stands_for}"
    done: list[dict[str, Any]] = []
    found = {"machine": where, "machine_line": machine_line(where), "model_line": model, "parts": done}
    keep(found)
    began = clock()
    for name in parts:
        module, _, function = PARTS[name].measure.partition(".")
        part: dict[str, Any] = {"part": name, "title": PARTS[name].title}
        done.append(part)
        started = clock()
        if started - began > seconds:
            part["skipped"] = f"the time was up: {started - began:.0f} seconds of {seconds:.0f} had passed"
        else:
            print(f"{name} ...", file=sys.stderr, flush=True)
            measure = getattr(importlib.import_module(f"{__package__}.{module}"), function)
            try:
                part["rows"] = measure(bench)
            except REASONS as error:
                part["skipped"] = reason(error)
            except Exception as error:  # a kernel or a compiler may raise anything; the other parts still tell
                part["failed"] = f"{type(error).__name__}: {reason(error)}"
                part["traceback"] = traceback.format_exc()
            part["seconds"] = clock() - started
        keep(found)
    return found


def _run(options: argparse.Namespace) -> int:
    from transformers.utils import logging

    from ..asking.models import resolve_device
    from ..overhead.models import SCALES, SHAPES
    from .bench import Bench

    for kind, table, given in (
        ("part", list(PARTS), options.parts),
        ("shape", list(SHAPES), [options.shape]),
        ("scale", ["auto", *SCALES], [options.scale]),
    ):
        for name in given:
            if name not in table:
                raise ConfigError(f"unknown {kind}: got {name!r}; expected one of {table}. {suggestion(name, table)}")
    device = resolve_device(options.device)
    scale = options.scale if options.scale != "auto" else "full" if device.type == "cuda" else "small"
    logging.set_verbosity_error()  # transformers tells the configuration that it has made up
    bench = Bench(device=device, scale=scale, shape=options.shape, rounds=options.rounds, pictures=options.pictures)
    options.output.mkdir(parents=True, exist_ok=True)

    def keep(found: Mapping[str, Any]) -> None:
        whole = with_earlier(options.output, found)
        write_json(options.output / RESULTS_FILE, whole)
        write_text(options.output / "gpu_check.md", as_markdown(whole))

    found = check(bench, options.parts, seconds=60 * options.minutes, keep=keep)
    print(as_markdown(with_earlier(options.output, found)), end="")
    return 1 if any("failed" in part for part in found["parts"]) else 0
