"""What the methods cost: `python -m benchmarks.overhead`.

The unpatched model, methods of `scr.patch`, and a naive two-pass of SCR with eager attention take turns in one process,
round after round, on models with random weights in the shapes of real ones; ratios are taken within a round. Latency
and memory need no checkpoint.
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scr.errors import suggestion
from scr.files import write_json

from ..printing.arguments import Parser, guarded, positive, threads
from ..running.provenance import checkout_state, package_versions, timestamp
from .table import NOTES, VANILLA, as_markdown, as_text, rows

# torch is imported below, in the functions that need it, so that --help and a mistyped flag answer at once.

_DEFAULT = "scr,vcd"
_METHODS = (
    "methods of `scr bench --list methods`, of which those with branches also as NAME_processor, in forwards of their "
    "own; naive, a direct two-pass; or all (%(default)s)"
)
_EPILOG = """examples:
  python -m benchmarks.overhead
  python -m benchmarks.overhead --shape llava,qwen2_vl,internvl --json overhead.json
  python -m benchmarks.overhead --rounds 9 --new-tokens 1,20,100
  python -m benchmarks.overhead --method all
  python -m benchmarks.overhead --method purified,purified_processor --new-tokens 1,20
  python -m benchmarks.overhead --num-beams 3 --new-tokens 1,20 --threads 1

The small scale, for a CPU, has the blocks and the image tokens of the model it stands for, an eighth of its width and a
smaller vision tower. The full one, for a GPU, has its widths, in bfloat16. The defaults took 80 seconds
of one core's time; a machine that others use too gives them out more slowly. More methods take longer in proportion,
more rounds and longer answers give narrower ratios. Interrupted, it prints the rounds that are complete.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        0 if something was measured, 1 if nothing was, 2 for an argument that cannot be used, 130 if interrupted.
    """
    return guarded(lambda: _run(build_parser().parse_args(argv)), "interrupted before a round was complete")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.overhead",
        description="Measure what the methods cost, beside the unpatched model.",
        epilog=_EPILOG,
        old_names={"--batch": "--batch-size"},
    )
    add = parser.add_argument
    add("--shape", default="llava", metavar="NAME[,NAME]", help="llava, qwen2_vl, internvl (%(default)s)")
    add("--method", default=_DEFAULT, metavar="NAME[,NAME]", help=_METHODS)
    add("--scale", default="auto", metavar="NAME", help="tiny, small, full or auto: full on a GPU, else small")
    add("--device", default="auto", help="cpu, cuda, cuda:N or auto (a GPU if there is one)")
    add("--new-tokens", type=_counts, default=(1, 20), metavar="N[,N]", help="generation lengths (1,20)")
    add("--rounds", type=positive, default=3, metavar="N", help="how often each method is measured (%(default)s)")
    add("--batch-size", type=positive, default=1, metavar="N", help="prompts per generation (%(default)s)")
    add("--num-beams", type=positive, default=1, metavar="N", help="beams per prompt (%(default)s)")
    add("--threads", type=threads, metavar="N", help="torch's threads (as torch chooses)")
    add("--cpu-time", action="store_true", help="time of this process's own work, for a busy machine; not on a GPU")
    add("--json", type=Path, metavar="FILE", help="also write all rounds and ratios there")
    add("--markdown", action="store_true", help="print the tables as Markdown")
    return parser


def measure_shape(
    name: str,
    scale: str,
    device: Any,
    *,
    new_tokens: Sequence[int],
    rounds: int,
    compared: Sequence[str],
    batch: int = 1,
    beams: int = 1,
    cpu_time: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure methods on one shape.

    Args:
        name: of the table of shapes.
        scale: `tiny`, `small` or `full`.
        device: a `torch.device`.
        new_tokens: ascending; one generation of the last of them tells the times of all.
        rounds: how often.
        compared: the methods beside the unpatched model.
        batch: prompts per generation.
        beams: per prompt.
        cpu_time: whether time is that of this process's own work, and not the wall's.
        report: is told what is going on.

    Returns:
        JSON values: what was measured, `rounds` with each method's times, peak memory, the arithmetic of a prefill, and
        whether an interrupt ended the rounds; `refused`: methods that cannot generate so, with the reason.

    Raises:
        KeyboardInterrupt: in the first round; later the rounds that are complete are returned.
    """
    import scr

    from .measure import measure_rounds, method_on, operations, peak_bytes
    from .models import SHAPES, build_workload

    shape = SHAPES[name]
    report(f"{name}: building the {scale} model")
    workload = build_workload(shape, scale, device, batch)
    # First what is counted, so that rounds that are interrupted have all that a table needs.
    methods, refused, peaks, arithmetic = [], {}, {}, {}
    for wanted in dict.fromkeys((VANILLA, *compared)):
        report(f"{name}: counting memory and arithmetic: {wanted}")
        try:
            method = method_on(workload, wanted)
            with method.applied():
                first = functools.partial(method.generate, max_new_tokens=1, num_beams=beams, do_sample=False)
                arithmetic[wanted] = operations(first)
                # The first tokens hold all that the methods differ in; later ones only lengthen the cache of each.
                few = functools.partial(method.generate, max_new_tokens=2, num_beams=beams, do_sample=False)
                peaks[wanted] = peak_bytes(few, device)
            methods.append(method)
        except scr.SCRError as error:
            refused[wanted] = str(error)
    found: list[dict[str, Any]] = []
    try:
        clock = time.process_time if cpu_time else time.perf_counter
        told = functools.partial(_told, report, name)
        for measured in measure_rounds(methods, rounds, new_tokens[-1], beams, told, clock):
            found.append(
                {
                    method: {
                        "prefill_ms": one.token_ms[0],
                        "until_ms": [one.token_ms[tokens - 1] for tokens in new_tokens],
                        "per_token_ms": one.per_token,
                        "pass_ms": one.pass_ms,
                    }
                    for method, one in measured.items()
                }
            )
    except KeyboardInterrupt:
        if not found:
            raise
        report(f"{name}: interrupted after {len(found)} of {rounds} rounds")
    text = workload.size.text
    return {
        "shape": name,
        "stands_for": shape.stands_for,
        "scale": scale,
        "dtype": str(workload.model.dtype).removeprefix("torch."),
        "parameters": workload.model.num_parameters(),
        "hidden": text.hidden,
        "blocks": text.blocks,
        "blocks_needed": scr.patch(workload.model).config.to_dict()["attention_layers"][1],
        "image_tokens": workload.size.image_tokens,
        "text_tokens": workload.inputs["input_ids"].shape[1] - workload.size.image_tokens,
        "batch": batch,
        "beams": beams,
        "clock": "cpu" if cpu_time else "wall",
        "new_tokens": list(new_tokens),
        "weight_bytes": workload.weight_bytes,
        "peak_bytes": peaks,
        "prefill_operations": arithmetic,
        "refused": refused,
        "interrupted": len(found) < rounds,
        "rounds": found,
    }


def _told(report: Callable[[str], None], shape: str, line: str) -> None:
    report(f"{shape}: {line}")


def machine(device: Any, threads: int) -> dict[str, Any]:
    """What the numbers were measured on and with."""
    import torch

    commit = checkout_state()
    return {
        "processor": _processor(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "threads": threads,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "packages": package_versions(),
        "commit": commit.commit,
        "dirty": commit.dirty,
        "created": timestamp(),
    }


def _run(options: argparse.Namespace) -> int:
    import torch

    threads = torch.get_num_threads()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        return _measure(options)
    finally:
        torch.set_num_threads(threads)


def _measure(options: argparse.Namespace) -> int:
    import torch
    from transformers.utils import logging

    from scr import ConfigError

    from ..asking.models import resolve_device
    from .measure import known_methods
    from .models import SCALES, SHAPES

    known = [name for name in known_methods() if name != VANILLA]
    names, compared = ([name.strip() for name in given.split(",")] for given in (options.shape, options.method))
    compared = known if compared == ["all"] else compared
    for kind, table, given in (
        ("shape", list(SHAPES), names),
        ("scale", ["auto", *SCALES], [options.scale]),
        ("method", known, compared),
    ):
        for name in given:
            if name not in table:
                raise ConfigError(f"unknown {kind}: got {name!r}; expected one of {table}. {suggestion(name, table)}")
    device = resolve_device(options.device)
    if options.cpu_time and device.type != "cpu":
        raise ConfigError(
            f"CPU time on another device: got {device}; expected the CPU. Leave --cpu-time out, or add --device cpu."
        )
    scale = options.scale if options.scale != "auto" else "full" if device.type == "cuda" else "small"
    logging.set_verbosity_error()  # transformers tells the configuration that it has made up
    where = machine(device, torch.get_num_threads())
    print(machine_line(where))
    measured, skipped = [], {}
    for name in dict.fromkeys(names):
        if not SHAPES[name].is_supported():
            skipped[name] = f"no family of this version patches model type {SHAPES[name].model_type!r}"
            print(f"\n{name}: skipped, {skipped[name]}")
            continue
        record = measure_shape(
            name,
            scale,
            device,
            new_tokens=options.new_tokens,
            rounds=options.rounds,
            compared=compared,
            batch=options.batch_size,
            beams=options.num_beams,
            cpu_time=options.cpu_time,
            report=lambda line: print(line, file=sys.stderr, flush=True),
        )
        measured.append({**record, "ratios": {row.name: row.ratios for row in rows(record)}})
        print(f"\n{as_markdown(record) if options.markdown else as_text(record)}", flush=True)
        if record["interrupted"]:
            break
    if measured:
        print("", *NOTES, sep="\n")
    if options.json:
        found = {"machine": where, "shapes": measured, "skipped": skipped}
        write_json(options.json, found)
    if measured and measured[-1]["interrupted"]:
        return 130
    return 0 if measured else 1


def machine_line(where: dict[str, Any]) -> str:
    """What `machine` returned, in one line."""
    packages = where["packages"]
    load = "" if where["load"] is None else f", load {where['load']:.1f} before"
    commit = (
        "" if where["commit"] is None else f"; commit {where['commit'][:7]}{' and changes' if where['dirty'] else ''}"
    )
    return (
        f"{where['gpu'] or where['processor']}, {where['threads']} threads{load}; torch {packages['torch']}, "
        f"transformers {packages['transformers']}; {where['created'][:10]}{commit}"
    )


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _counts(text: str) -> tuple[int, ...]:
    return tuple(sorted({positive(part.strip()) for part in text.split(",")}))
