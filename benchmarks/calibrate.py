"""Settings that are chosen on validation: `python -m benchmarks.calibrate yes-shift` and `... confidence`.

Each prints the `--method-arg` that brings what was found into `benchmarks.run`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from scr import BASELINE

from .printing.arguments import Parser, add_flags, add_model, guarded, run_config

# torch is imported below, in the functions that need it, so that --help and a mistyped flag answer at once.

CONFIDENCES = ("max_logprob", "entropy", "margin")
"""How sure a model is, as `scr.contrast.Confidence` has it."""

_EPILOG = """examples:
  python -m benchmarks.calibrate yes-shift --method vcd
  python -m benchmarks.calibrate confidence --model llava-hf/llava-1.5-7b-hf --data-dir coco --split val2014
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 if something was found, 2 for an argument or input that cannot be used, 130 if interrupted.
    """
    return guarded(lambda: _run(build_parser().parse_args(argv)))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.calibrate",
        description="Choose settings on a validation split.",
        epilog=_EPILOG,
    )
    kinds = parser.add_subparsers(dest="what", required=True)
    shift = kinds.add_parser("yes-shift", help="the constant on no that has a method's yes ratio")
    shift.add_argument("--method", required=True, metavar="NAME", help="the method to match")
    sure = kinds.add_parser("confidence", help="the thresholds of the quantile strength")
    sure.add_argument("--kind", choices=CONFIDENCES, default="max_logprob", help="(%(default)s)")
    for one, tasks in ((shift, ("pope",)), (sure, ("pope", "chair"))):
        add_model(one, revision=False, computed=False)
        add_flags(one, "--tasks", "--data-dir", "--split", "--limit", "--output-dir", tasks=tasks, split="val")
    return parser


def _run(options: argparse.Namespace) -> int:
    from .studies.calibration import confidence_thresholds, yes_shift

    config = run_config(options, methods=getattr(options, "method", BASELINE))
    if options.what == "yes-shift":
        found = yes_shift(config)
        print(json.dumps(found))
        print(f"--method-arg yes_shift.shift={found['shift']:.6g}")
    else:
        strength = {"name": "quantile", "thresholds": confidence_thresholds(config, options.kind)}
        print(f"--method-arg 'purified.strength={json.dumps(strength)}'")
    return 0


if __name__ == "__main__":
    sys.exit(main())
