"""Settings that are chosen on validation: `python -m benchmarks.calibrate yes-shift`, `... confidence`, `... steering`.

Each prints the `--method-arg` that brings what was found into `benchmarks.run`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from scr import BASELINE

from .printing.arguments import Parser, add_flags, add_model, guarded, positive, run_config, share

# torch is imported below, in the functions that need it, so that --help and a mistyped flag answer at once.

CONFIDENCES = ("max_logprob", "entropy", "margin")
"""How sure a model is, as `scr.contrast.Confidence` has it."""

_EPILOG = """examples:
  python -m benchmarks.calibrate yes-shift --method vcd
  python -m benchmarks.calibrate steering --method vti --output vti.safetensors
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
    steering = kinds.add_parser("steering", help="the vectors that a method adds, from true captions and false ones")
    steering.add_argument("--method", required=True, metavar="NAME", help="a method that is given such vectors")
    add_model(steering)
    add_flags(steering, "--data-dir", "--split", "--seed", split="val")
    steering.add_argument("--number", type=positive, default=70, metavar="N", help="of images (%(default)s)")
    steering.add_argument("--rank", type=positive, default=1, metavar="N", help="of the mean shift (%(default)s)")
    steering.add_argument("--trials", type=positive, default=50, metavar="N", help="masked copies each (%(default)s)")
    steering.add_argument("--masked", type=share, default=0.99, metavar="X", help="share of a copy (%(default)s)")
    steering.add_argument("--output", type=Path, required=True, metavar="FILE", help="safetensors with a card")
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.what == "steering":
        from .studies.steering import make_vectors

        numbers = {name: getattr(options, name) for name in ("number", "rank", "trials", "masked")}
        method = options.method.lower()
        card = make_vectors(run_config(options, methods=BASELINE, tasks=("chair",)), method, options.output, **numbers)
        print(json.dumps({**card.to_dict(), "images": len(card.images)}))
        print(f"--method-arg {method}.vectors={options.output}")
        return 0
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
