"""Settings that are chosen on validation: `python -m benchmarks.calibrate yes-shift` and `... confidence`.

Each prints the `--method-arg` that brings what was found into `benchmarks.run`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from .printing.arguments import Parser, add_model, all_or_positive, guarded, names

# torch is imported below, in the functions that need it, so that --help and a mistyped flag answer at once.

CONFIDENCES = ("max_logprob", "entropy", "margin")
"""How sure a model is, as `scr.contrast.Confidence` has it."""

_EPILOG = """examples:
  python -m benchmarks.calibrate yes-shift --method vcd
  python -m benchmarks.calibrate confidence --model llava-hf/llava-1.5-7b-hf --data-dir coco --split val2014
"""


def match_yes_ratio(margins: Sequence[float], yes: int) -> float:
    """The `shift` of `yes_shift` at which so many answers stay yes: halfway between the two margins beside it.

    Args:
        margins: logit of yes minus logit of no of the unpatched model's answers.
        yes: how many of them are to be yes.

    Raises:
        ValueError: if there are not so many margins.
    """
    if not 0 <= yes <= len(margins) or not margins:
        raise ValueError(
            f"no such number of answers: got {yes} of {len(margins)} margins; expected 0 up to their number, which is "
            "not 0. Count the answers to the same questions."
        )
    # Beyond the ends a whole logit: any number would do.
    falling = [max(margins) + 2, *sorted(margins, reverse=True), min(margins) - 2]
    return (falling[yes] + falling[yes + 1]) / 2


def yes_shift(config: Any) -> dict[str, Any]:
    """Match the yes ratio of a method by a constant shift of the unpatched model's answers.

    Args:
        config: a `benchmarks.running.plan.RunConfig` of one method and yes/no tasks; what is recorded is not
            computed again.

    Returns:
        `shift`; `yes_ratio` of the method, `yes_ratio_without` of the unpatched model, and `answers`, how many.

    Raises:
        ConfigError: if the method is none, a task asks for captions, or an answer has no margin.
    """
    from scr import ConfigError

    from .running.methods import BASELINE
    from .running.plan import GREEDY_ROW, build_plan
    from .running.prompts import YES_NO
    from .running.runner import run_plan

    if len(config.methods) != 1 or config.methods[0] == BASELINE:
        raise ConfigError(f"nothing to match: got methods {config.methods}; expected one other than none. Name it.")
    plan = build_plan(config)
    if captions := sorted({cell.plan.task.name for cell in plan.cells if cell.plan.task.kind != YES_NO}):
        raise ConfigError(f"answers are no yes or no: got tasks {captions}; expected yes/no tasks. Leave them out.")
    outcomes = run_plan(plan)
    without = [record for one in outcomes if one.cell.row == BASELINE for record in one.records]
    records = [record for one in outcomes if one.cell.row not in (BASELINE, GREEDY_ROW) for record in one.records]
    if missing := sum(record.margin is None for record in without):
        raise ConfigError(
            f"answers without a margin: got {missing} of {len(without)}; expected none. See `reasons` in run.json."
        )
    yes, before = (sum(record.answer == "yes" for record in some) for some in (records, without))
    return {
        "shift": match_yes_ratio([cast(float, record.margin) for record in without], yes),
        "yes_ratio": yes / len(records),
        "yes_ratio_without": before / len(without),
        "answers": len(records),
    }


def confidence_thresholds(config: Any, kind: Any = "max_logprob") -> tuple[float, ...]:
    """Thresholds of `QuantileStrength` from the unpatched model's answers.

    Args:
        config: a `benchmarks.running.plan.RunConfig`; its methods have no part.
        kind: of confidence.
    """
    import scr

    from .asking.answering import Answerer, Question
    from .running.methods import BASELINE
    from .running.models import load_model
    from .running.plan import build_plan
    from .running.prompts import apply_prompt

    plan = build_plan(config)
    loaded = load_model(
        plan.source, dtype=plan.dtype, device=str(plan.device), attn_implementation=config.attn_implementation
    )
    answerer = Answerer(loaded)

    def batches(cell: Any) -> Iterator[Any]:
        # Without an image there is nothing to contrast with.
        wanted = [one for one in cell.plan.wanted_samples if one.image is not None]
        size = cell.plan.batch_size
        for batch in (wanted[start : start + size] for start in range(0, len(wanted), size)):
            prompts = [apply_prompt(config.prompt, cell.plan.task.kind, one.prompt) for one in batch]
            asked = zip(batch, prompts, strict=True)
            inputs = answerer.encode([Question(id=one.id, image=one.image, prompt=prompt) for one, prompt in asked])
            yield {**inputs, "pad_token_id": loaded.processor.tokenizer.pad_token_id, **cell.generation}

    every = (inputs for cell in plan.cells if cell.row == BASELINE for inputs in batches(cell))
    return scr.calibrate_confidence(loaded.model, every, kind=kind)


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
        one.add_argument(
            "--tasks", type=names, default=tasks, metavar="NAME[,NAME]", help=f"tasks or groups ({','.join(tasks)})"
        )
        one.add_argument("--data-dir", type=Path, metavar="DIR", help="COCO layout; default: the lab's own")
        one.add_argument("--split", default="val", metavar="NAME", help="(%(default)s)")
        one.add_argument("--limit", type=all_or_positive, default=100, metavar="N", help="number of images (100)")
        one.add_argument("--output-dir", type=Path, default=Path("results"), metavar="DIR", help="(%(default)s)")
    return parser


def _run(options: argparse.Namespace) -> int:
    from .running.plan import RunConfig

    config = RunConfig(
        model=options.model,
        methods=(getattr(options, "method", "none"),),
        tasks=options.tasks,
        data_dir=options.data_dir,
        split=options.split,
        limit=options.limit,
        output_dir=options.output_dir,
    )
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
