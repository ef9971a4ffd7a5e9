"""Whether `scr.describe` doubts the right words: `python -m benchmarks.doubts`.

Learn on a validation split what the measures of doubt mean for a model, then read another split once.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path

from scr import ConfigError
from scr.files import write_json

from .printing.arguments import Parser, add_flags, add_model, guarded, names, run_config, share

# torch is imported below, in the functions that need it, so that --help and a mistyped flag answer at once.

_EPILOG = """examples:
  python -m benchmarks.doubts --split val --limit 300 --output doubts.json
  python -m benchmarks.doubts --split test --limit 300 --calibration doubts.json --methods vcd,purified

Without --calibration one is learnt, and called as its file is; what is printed of it is of the mentions that it was
learnt on.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 if something was measured, 2 for an argument or input that cannot be used, 130 if interrupted.
    """
    return guarded(lambda: _run(build_parser().parse_args(argv)))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.doubts",
        description="Measure whether doubts find what is made up, and what leaving that out changes.",
        epilog=_EPILOG,
    )
    add_model(parser)
    add_flags(parser, "--data-dir", "--split", "--limit", "--batch-size", "--seed", split="val")
    add = parser.add_argument
    add("--calibration", metavar="NAME", help="of the project, or a JSON file (learn one)")
    add("--output", type=Path, metavar="FILE", help="where the calibration that is learnt goes")
    add("--drop-above", type=share, default=0.8, metavar="X", help="leave out what has a higher score (%(default)s)")
    add("--methods", type=names, default=(), metavar="NAME[,NAME]", help="of decoding, to stand beside it (none)")
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.output is not None and options.calibration is not None:
        raise ConfigError(
            f"nothing to write: got --output {options.output} beside --calibration {options.calibration}, which is "
            "learnt already; expected one of the two. Leave the other out."
        )
    from scr.describing import Calibration, find_calibration

    from .printing.doubts import print_qualities, print_rows
    from .running.methods import BASELINE
    from .studies.doubts import calibrate, costs, describe_split, left_out, qualities

    known = None if options.calibration is None else find_calibration(options.calibration)
    study = describe_split(run_config(options, methods=BASELINE, tasks=("chair",)))
    mentions = study.mentions
    made_up = sum(one.made_up for one in mentions)
    if known is None:
        intercept, weights = calibrate(mentions)
        known = Calibration(
            name=study.loaded.name if options.output is None else options.output.stem,
            model=study.loaded.name,
            revision=study.loaded.revision,
            data=f"{options.split}: {len(study.samples)} images",
            prompt=study.samples[0].prompt,
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            mentions=len(mentions),
            made_up=made_up,
            intercept=intercept,
            weights=weights,
        )
        if options.output is not None:
            write_json(options.output, known.to_dict())
    elif caveat := known.caveat(study.loaded.name, study.loaded.revision, study.samples[0].prompt):
        print(caveat, file=sys.stderr)
    print(f"{study.loaded.name}, {options.split}: {len(study.samples)} images, {len(mentions)} mentions, "
          f"{made_up} made up; scores by {known.name} ({known.data})")  # fmt: skip
    print_qualities(qualities(mentions, known), costs(study))
    print_rows(list(left_out(study, known, [options.drop_above], options.methods)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
