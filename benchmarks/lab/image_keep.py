"""Draw what SEED's image_keep does to an adapter: `python -m benchmarks.lab.image_keep`.

Reads `findings/adapters.json`, as `python -m benchmarks.lab.comparison --declared adapters` wrote it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scr.files import read_json

from ..printing.arguments import Parser, guarded
from .comparison import RESULTS

ROWS = {0.1: "seed 0.1", 0.3: "seed", 0.5: "seed 0.5", 0.7: "seed 0.7"}
"""image_keep of the training → the row that was measured."""
PANELS = {
    "POPE adversarial: HR": ("pope_adversarial", "hallucination_rate", 100),
    "POPE adversarial: AUC": ("pope_adversarial", "auc", 1),
    "CHAIR-i": ("chair", "chair_i", 100),
    "CHAIR: recall": ("chair", "recall", 100),
}
"""Title → task, metric, and what it is multiplied by."""
FIGURE = Path(__file__).parent / "adapters" / "image_keep.png"


def read_grid(results: Mapping[str, Any]) -> dict[str, list[tuple[float, float, float, float]]]:
    """Panel → (image_keep, difference to the model without an adapter, its 95 % interval) of every training.

    Args:
        results: content of `findings/adapters.json`.
    """
    rows = next(iter(results["models"].values()))
    grid = {}
    for title, (task, metric, factor) in PANELS.items():
        points = ((keep, rows[row][task]["differences"][metric]) for keep, row in ROWS.items())
        grid[title] = [(keep, *(factor * number for number in found)) for keep, found in points]
    return grid


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    return guarded(lambda: _run(build_parser().parse_args(argv)))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.lab.image_keep", description=__doc__)
    parser.add_argument(
        "--output", type=Path, default=FIGURE, metavar="FILE", help="the figure (the one inside the package)"
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    from matplotlib.figure import Figure

    written = RESULTS / "adapters.json"
    grid = read_grid(read_json(written))
    figure = Figure(figsize=(7, 2.1), layout="constrained")
    for axes, (title, points) in zip(figure.subplots(1, len(grid)), grid.items(), strict=True):
        keeps, values, lows, highs = zip(*points, strict=True)
        spread = [[v - low for v, low in zip(values, lows, strict=True)]]
        spread.append([high - v for v, high in zip(values, highs, strict=True)])
        axes.axhline(0, color="0.6", linewidth=0.8)
        axes.errorbar(keeps, values, yerr=spread, fmt="o-", color="#0072b2", markersize=3, linewidth=1, capsize=2)
        axes.set_title(title, fontsize=8)
        axes.set_xlabel("image_keep", fontsize=8)
        axes.tick_params(labelsize=7)
    figure.supylabel("difference to no adapter", fontsize=8)
    figure.savefig(options.output, dpi=150)
    print(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
