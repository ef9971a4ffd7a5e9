"""Compare all methods on the lab: `python -m benchmarks.lab.comparison --models lab/llava,FOLDER,FOLDER`.

What is compared was declared in `declared/comparison.json` before it was run. All of it is run, every result is written
to `findings/comparison.json`, and FINDINGS.md has its tables from that file alone by `--markdown`. The adapters were
compared likewise: `--declared adapters`; `lab/smol`: `--models lab/smol --declared smol`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from scr import BASELINE
from scr.files import read_json, write_json

from ..printing.arguments import Parser, guarded, names

# torch is imported below, in the functions that need it, so that --help and --markdown answer at once.

DECLARED, RESULTS = (Path(__file__).parent / name for name in ("declared", "findings"))
_SHOWN = (
    *("accuracy", "hallucination_rate", "utility", "over_refusal", "chair_s", "chair_i", "recall", "yes_ratio", "auc"),
    "length",
)
_HEADS = {
    "hallucination_rate": "HR",
    "yes_ratio": "yes",
    "over_refusal": "over-refusal",
    "auc": "AUC",
    "chair_s": "CHAIR-s",
    "chair_i": "CHAIR-i",
    "length": "words",
}
_PLAIN = ("auc", "length")  # what is no rate in %
_DECIDING = (
    ("accuracy", "hallucination_rate", "auc"),
    ("chair_s", "chair_i", "recall"),
    ("hallucination_rate", "utility"),
)
"""Of yes/no questions, captions and leading questions: the metrics whose differences are shown."""
_DECODING = ("sampled", "generation")
_APART = ("prompt", *_DECODING, "match", "adapter", "tasks", "args", "tuned")
"""What rows of one run have in common."""


def compare_methods(
    model: str,
    declared: Mapping[str, Any],
    output: Path,
    report: Callable[[str], None] = print,
    *,
    world: str | None = None,
) -> dict[str, Any]:
    """Run every declared row with one model; what is recorded is not computed again.

    Args:
        model: a lab name, or the folder of a checkpoint that was trained as one.
        declared: content of a file in `declared/`. A row's `args` are fields of its methods' configurations, as
            `benchmarks.run --method-arg` takes them, `tuned` a file in `findings/` with what `benchmarks.lab.tune`
            found, `generation` arguments of `generate`; what no row says of SCR is what lies beside `lab/llava`, or
            the declaration's own `settings`.
        output: where the records go.
        report: is told what happens.
        world: the lab model whose pictures it is shown (the model itself).

    Returns:
        row → task → metrics, counts, intervals, differences to the row's baseline, and times as ratios.

    Raises:
        FileNotFoundError: if a row takes what a search found, and there was none yet.
        ConfigError: if the declaration has settings of its own and others lie beside the checkpoint.
    """
    from scr import ConfigError, get_method
    from scr.checkpoints.digests import SETTINGS_FILE

    from ..asking.models import find_model
    from ..running.methods import method_parts
    from ..running.outcomes import Outcome
    from ..running.plan import RunConfig
    from ..running.runner import run
    from ..studies.calibration import yes_shift
    from . import checkpoint_folder, data_folder

    world = world or model
    settings = declared.get("settings")
    if settings is None:
        settings = read_json(checkpoint_folder("lab/llava") / "scr.json")["settings"]
    elif find_model(model).settings:
        raise ConfigError(
            f"settings beside the checkpoint: got {model} with a {SETTINGS_FILE} where the declaration has its own; "
            "expected none, since they would decide what no row says. Move it away."
        )
    parts = dict.fromkeys(part for row in declared["rows"] for part in method_parts(row["method"]))
    tuned = [part for part in parts if get_method(part).config_class.takes_settings]
    scr_args = {f"{part}.{name}": value for part in tuned for name, value in settings.items()}

    def config(place: Mapping[str, Any], **changes: Any) -> RunConfig:
        data = data_folder(place["split"], 500, world)
        return RunConfig(
            model=model,
            data_dir=data,
            split=place["split"],
            dtype=declared.get("dtype", "auto"),
            batch_size=declared["batch_size"],
            output_dir=output,
            **{"limit": place.get("images"), "tasks": tuple(place["tasks"]), **changes},
        )

    outcomes: dict[str, dict[str, Outcome]] = {}
    shifts = {}
    for row in declared["rows"]:
        if "match" in row:
            shifts[row["row"]] = yes_shift(config(declared["calibration"], methods=(row["match"],)))
            report(f"{model}: {row['row']}: {json.dumps(shifts[row['row']])}")
    # Rows that differ in the method alone are one run, so that they are timed beside each other.
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in declared["rows"]:
        apart = [row.get(name) for name in _APART]
        groups.setdefault(json.dumps(apart), []).append(row)
    for rows in groups.values():
        methods = tuple(row["method"] for row in rows)
        named = {part for method in methods for part in method_parts(method)}
        args = {key: value for key, value in scr_args.items() if key.partition(".")[0] in named}
        own = rows[0].get("args", {})
        if "tuned" in rows[0]:
            own = read_json(RESULTS / f"{rows[0]['tuned']}.json")["settings"]
        # By the method's name, so that they win over what lies beside the checkpoint.
        args |= {key if "." in key else f"{part}.{key}": value for part in named for key, value in own.items()}
        if "match" in rows[0]:
            args["yes_shift.shift"] = shifts[rows[0]["row"]]["shift"]
        adapter = rows[0].get("adapter")
        for images, tasks in _parts(declared, rows[0].get("tasks")):
            found = run(
                config(
                    declared,
                    limit=images,
                    tasks=tasks,
                    methods=methods,
                    method_args=args,
                    adapter=adapter,
                    prompt=rows[0].get("prompt", "default"),
                    generation=declared["sampling"] if rows[0].get("sampled") else rows[0].get("generation", {}),
                ),
                report,
            )
            for row in rows:
                name = ", ".join(filter(None, (adapter, row["method"])))
                name = adapter if adapter and row["method"] == BASELINE else name
                same = [one for one in found if one.cell.row == name]
                outcomes.setdefault(row["row"], {}).update({one.cell.work.task.name: one for one in same})
    return {
        row["row"]: {
            **({"calibration": shifts[row["row"]]} if row["row"] in shifts else {}),
            **{
                task: _entry(one, outcomes[_baseline(row, declared["rows"])][task])
                for task, one in outcomes[row["row"]].items()
            },
        }
        for row in declared["rows"]
    }


def _parts(declared: Mapping[str, Any], own: Sequence[str] | None) -> list[tuple[int, tuple[str, ...]]]:
    """Numbers of images and the tasks asked about so many; of a row with tasks of its own, these alone."""
    from ..tasks import expand_tasks

    images_of = declared.get("images_of", {})
    parts: dict[int, list[str]] = {}
    for task in expand_tasks(own or declared["tasks"]):
        parts.setdefault(images_of.get(task, declared["images"]), []).append(task)
    return [(images, tuple(tasks)) for images, tasks in parts.items()]


def _baseline(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """The row without a method, prompt or adapter and with the same decoding: sampled, or with as many beams."""
    plain = (one for one in rows if one["method"] == BASELINE and "prompt" not in one and "adapter" not in one)
    decoding = [row.get(name) for name in _DECODING]
    return next(one["row"] for one in plain if [one.get(name) for name in _DECODING] == decoding)


def _entry(outcome: Any, baseline: Any) -> dict[str, Any]:
    scores, task = outcome.scores, outcome.cell.work.task
    found: dict[str, Any] = {
        "method": outcome.cell.method,
        **({} if outcome.run.adapter is None else {"adapter": outcome.run.adapter}),
        "config": outcome.cell.config,
        "metrics": scores.metrics,
        "counts": scores.counts,
        "intervals": scores.intervals,
        **({"units": scores.units} if scores.units else {}),
        "timing": {name: value for name, value in outcome.run.timing.items() if name.endswith("_ratio")},
    }
    if outcome is not baseline:
        compared = task.compare(baseline.records, outcome.records)
        found["differences"] = {
            name: [one.value, *(one.interval or (None, None))] for name, one in compared.differences.items()
        }
        found["changes"] = [compared.changed, compared.right_to_wrong, compared.wrong_to_right]
    return found


def as_markdown(results: Mapping[str, Any], task: str) -> str:
    """One table of FINDINGS.md: all rows of one task, of the first model, with the others' differences beside it.

    Args:
        results: content of a file in `findings/`.
        task: a task's name.
    """
    first, *others = results["models"].values()
    baseline = next(one[task] for one in first.values() if task in one)
    measured, units = baseline["metrics"], baseline.get("units", {})
    metrics = [name for name in _SHOWN if name in measured]
    deciding: Sequence[str] = next((names for names in _DECIDING if set(names) <= set(metrics)), ())
    if not deciding:  # a task with points of its own
        metrics = deciding = list(units)
    beside = "auc" if "auc" in metrics else "chair_i"
    others = [one for one in others if beside in deciding and all(task in entry for entry in one.values())]
    head = [
        "",
        *(_HEADS.get(name, name) for name in metrics),
        *(f"Δ {_HEADS.get(name, name)}" for name in deciding),
        *([f"Δ {_HEADS[beside]}, seeds {', '.join(results['seeds'][1:])}"] if others else []),
        "changed: worse, better",
    ]
    lines = [head, ["---", *["--:"] * (len(head) - 1)]]
    for row in results["declared"]["rows"]:
        if task not in first.get(row["row"], {}):  # not asked of it, or not run yet
            continue
        entry = first[row["row"]][task]
        cells = [f"`{row['row']}`", *(_number(name, entry["metrics"][name], plain=units) for name in metrics)]
        if task == "sycophancy":
            spans = ([_number(name, one) for one in entry["intervals"][name]] for name in metrics)
            cells[1:] = [f"{cell} ({low}–{high})" for cell, (low, high) in zip(cells[1:], spans, strict=True)]
        if "differences" in entry:
            cells += [_difference(name, entry["differences"].get(name), units) for name in deciding]
            if others:
                values = [one[row["row"]][task]["differences"][beside][0] for one in others]
                cells.append(", ".join(_number(beside, value, "+") for value in values))
            cells.append("{}: {}, {}".format(*entry["changes"]))
        cells += [""] * (len(deciding) + bool(others) + 1 + len(metrics) + 1 - len(cells))
        lines.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(name: str, value: float | None, sign: str = "", plain: Collection[str] = ()) -> str:
    if value is None:
        return "–"
    digits, shown = (3 if name == "auc" else 1), value if name in (*_PLAIN, *plain) else 100 * value
    return f"{round(shown, digits) + 0:{sign}.{digits}f}"  # + 0, because −0.0 is 0.0


def _difference(name: str, found: Sequence[float | None] | None, plain: Collection[str] = ()) -> str:
    if found is None:
        return "–"
    value, low, high = (_number(name, one, "+", plain) for one in found)
    return f"{value} ({low} … {high})"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    parser = build_parser()
    return guarded(lambda: _run(parser, parser.parse_args(argv)), "interrupted; the same command goes on from here")


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.lab.comparison", description="Compare all methods on the lab.")
    parser.add_argument(
        "--models", type=names, default=("lab/llava",), metavar="NAME[,NAME]", help="of seeds in order (lab/llava)"
    )
    parser.add_argument("--seeds", type=names, default=("7",), metavar="N[,N]", help="what they were trained with (7)")
    parser.add_argument(
        "--output-dir", type=Path, default=Path("lab-training/comparison"), metavar="DIR", help="records (%(default)s)"
    )
    parser.add_argument(
        "--declared",
        choices=sorted(one.stem for one in DECLARED.glob("*.json")),
        default="comparison",
        metavar="NAME",
        help="what is compared: a file in declared/ (%(default)s)",
    )
    parser.add_argument("--markdown", action="store_true", help="print the tables of FINDINGS.md, run nothing")
    return parser


def _run(parser: Parser, options: argparse.Namespace) -> int:
    written = RESULTS / f"{options.declared}.json"
    if options.markdown:
        results = read_json(written)
        for task in results["tasks"]:
            print(f"{task}\n\n{as_markdown(results, task)}\n")
        return 0
    models, seeds = options.models, options.seeds
    if len(models) != len(seeds):
        parser.error(f"a seed for each model: got {len(models)} models and {len(seeds)} seeds; expected equal numbers")
    from ..running.provenance import checkout_state, timestamp

    declared = read_json(DECLARED / f"{options.declared}.json")
    for_others = declared
    if "other_seeds" in declared:
        fewer = declared["other_seeds"]
        calibration = {
            **declared["calibration"],
            "images": fewer["images"],
            "tasks": [name for name in fewer["tasks"] if name.startswith("pope")],
        }
        for_others = {**declared, **fewer, "calibration": calibration}
    found = {
        seed: compare_methods(model, for_others if number else declared, options.output_dir, world=models[0])
        for number, (seed, model) in enumerate(zip(seeds, models, strict=True))
    }
    commit = checkout_state().commit
    results = {
        "created": timestamp(),
        "commit": commit,
        "seeds": seeds,
        "tasks": [name for name in found[seeds[0]][BASELINE] if name != "calibration"],
        "declared": declared,
        "models": found,
    }
    write_json(written, results, indent=1)
    print(f"wrote {written}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
