"""Choose SCR's settings for a lab model: `python -m benchmarks.lab.tune`.

The grid was declared in `declared/grids/` before any of it was run. All of it is run on the validation split, every
result is printed, and the winner by the declared criterion is written to `scr.json` beside the checkpoint, or to
another file, whatever it gains.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scr.errors import ConfigError
from scr.files import read_json, write_json

from ..printing.arguments import Parser, add_lab_model, guarded
from . import ASSEMBLED, checkpoint_folder

if TYPE_CHECKING:
    from ..running.outcomes import Outcome

# torch is imported below, in the functions that need it, so that --help answers at once.

GRIDS = Path(__file__).parent / "declared" / "grids"


def configurations(grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination of the grid's fields, the last one varying fastest."""
    fields = grid["fields"]
    return [dict(zip(fields, values, strict=True)) for values in itertools.product(*fields.values())]


def tune(model: str, output: Path, grid: Mapping[str, Any]) -> dict[str, Any]:
    """Run the whole grid on its split, print every result, and return the content of `scr.json`.

    Args:
        model: name of a lab model.
        output: where the records go; an interrupted search goes on from there.
        grid: content of a file in `declared/grids/`.

    Raises:
        ValueError: if the criterion is undefined for one of the runs.
    """
    from scr import SCRConfig
    from scr.checkpoints.settings import settings_beside

    from ..running.plan import RunConfig
    from ..running.runner import run

    tried = configurations(grid)
    # What an earlier search left beside the checkpoint is no part of this one.
    default, found = SCRConfig().to_dict(), settings_beside(checkpoint_folder(model)).get("settings", {})
    unsaid = {name: default[name] for name in found if name not in grid["fields"]}
    where = f"{grid['task']} on {grid['images']} images of {grid['split']}"
    print(f"{len(tried)} configurations, {where}: {grid['criterion']}")
    baseline, results = {}, []
    for number, fields in enumerate(tried, start=1):
        none, scr = run(
            RunConfig(
                model=model,
                methods=("scr",),
                method_args=unsaid | fields,
                tasks=(grid["task"],),
                split=grid["split"],
                limit=grid["images"],
                batch_size=grid.get("batch_size", 50),
                dtype=grid.get("dtype", "auto"),
                output_dir=output,
            )
        )
        baseline = _metrics(none)
        results.append({**fields, **_metrics(scr)})
        print(f"{number:3d}/{len(tried)}  auc {_metrics(scr)['auc']:.4f} (without {baseline['auc']:.4f})  "
              f"{json.dumps(results[-1])}")  # fmt: skip
    best = max(range(len(tried)), key=lambda index: results[index]["auc"])
    return {
        "settings": tried[best],
        "chosen_by": f"{grid['criterion']}; {where}",
        "configurations": len(tried),
        **{f"{name}_without": value for name, value in baseline.items()},
        "auc": results[best]["auc"],
        "better_than_without": sum(result["auc"] > baseline["auc"] for result in results),
        "results": results,
    }


def _metrics(outcome: Outcome) -> dict[str, Any]:
    """The criterion, and what a higher one may have been bought with."""
    found = outcome.scores.metrics
    if found["auc"] is None:
        raise ValueError(f"no AUC: got none ({outcome.scores.reasons['auc']}); expected one. Look at the records.")
    return {name: found[name] for name in ("auc", "hallucination_rate", "recall")}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    return guarded(lambda: _run(build_parser().parse_args(argv)), "interrupted; the same command goes on from here")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.lab.tune", description=__doc__)
    add_lab_model(parser)
    parser.add_argument(
        "--output-dir", type=Path, default=Path("lab-training/tune"), metavar="DIR", help="records (%(default)s)"
    )
    parser.add_argument(
        "--grid",
        choices=sorted(one.stem for one in GRIDS.glob("*.json")),
        default="small",
        help="what is tried (small)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE",
        help="what was found (scr.json beside the checkpoint; needed for a model that is put together in the cache)",
    )  # fmt: skip
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.output is None and options.model in ASSEMBLED:
        raise ConfigError(
            f"nowhere to write: got no --output for {options.model}; expected a file, since what lies in the cache is "
            "made anew. Give --output FILE."
        )
    found = tune(options.model, options.output_dir, read_json(GRIDS / f"{options.grid}.json"))
    path = options.output or checkpoint_folder(options.model) / "scr.json"
    write_json(path, found)
    print(f"{found['better_than_without']} of {found['configurations']} configurations beat none; wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
