"""Choose SCR's settings for a lab model: `python -m benchmarks.lab.tune`.

The grid was declared in `grid.json` before any of it was run. All of it is run on the validation split, every result is
printed, and the winner by the declared criterion is written to `scr.json` beside the checkpoint, whatever it gains.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..plan import BASELINE, RunConfig
from ..runner import run
from . import checkpoint_folder

GRID = Path(__file__).parent / "grid.json"
SPLITS = ("pope_random", "pope_popular", "pope_adversarial")


def configurations(grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination of the grid's fields, the last one varying fastest."""
    fields = grid["fields"]
    return [dict(zip(fields, values, strict=True)) for values in itertools.product(*fields.values())]


def mean_auc(metrics: Mapping[str, Mapping[str, float | None]]) -> float:
    """The criterion: the mean, over POPE's splits, of the area under the ROC curve of the yes/no margin.

    Raises:
        ValueError: if it is undefined on a split.
    """
    values = [metrics[split]["auc"] for split in SPLITS]
    missing = [split for split, value in zip(SPLITS, values, strict=True) if value is None]
    if missing:
        raise ValueError(f"no AUC: got none on {missing}; expected one on every split. Look at the runs' reasons.")
    return sum(value for value in values if value is not None) / len(values)


def tune(model: str, output: Path, grid: Mapping[str, Any]) -> dict[str, Any]:
    """Run the whole grid on its split, print every result, and return the content of `scr.json`.

    Args:
        model: name of a lab model.
        output: where the records go; an interrupted search goes on from there.
        grid: content of `grid.json`.
    """
    tried = configurations(grid)
    print(f"{len(tried)} configurations on {grid['images']} images of {grid['split']}; criterion: {grid['criterion']}")
    rows: list[tuple[float, dict[str, Any]]] = []
    baseline = 0.0
    for number, fields in enumerate(tried, start=1):
        outcomes = run(
            RunConfig(
                model=model,
                methods=("scr",),
                method_args=fields,
                tasks=SPLITS,
                split=grid["split"],
                limit=grid["images"],
                output_dir=output,
            )
        )
        scores = {
            method: {one.cell.plan.task.name: one.scores.metrics for one in outcomes if one.cell.method == method}
            for method in (BASELINE, "scr")
        }
        baseline = mean_auc(scores[BASELINE])
        rows.append((mean_auc(scores["scr"]), fields))
        rates = " ".join(f"{scores['scr'][split]['hallucination_rate']:.3f}" for split in SPLITS)
        print(
            f"{number:3d}/{len(tried)}  auc {rows[-1][0]:.4f} (none {baseline:.4f})  HR {rates}  {json.dumps(fields)}"
        )
    best, settings = max(rows, key=lambda row: row[0])
    return {
        "settings": settings,
        "chosen_by": grid["criterion"],
        "split": grid["split"],
        "images": grid["images"],
        "configurations": len(tried),
        "value": best,
        "value_without_scr": baseline,
        "better_than_without": sum(value > baseline for value, _ in rows),
        "results": [{**fields, "mean_auc": value} for value, fields in rows],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab.tune", description=__doc__)
    parser.add_argument("--model", default="lab/llava", help="name of a lab model (default: %(default)s)")
    parser.add_argument(
        "--output-dir", type=Path, default=Path("lab-training/tune"), help="where the records go (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)
    found = tune(arguments.model, arguments.output_dir, json.loads(GRID.read_text(encoding="utf-8")))
    path = checkpoint_folder(arguments.model) / "scr.json"
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"{found['better_than_without']} of {found['configurations']} configurations beat none; wrote {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
