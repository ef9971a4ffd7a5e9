"""Answers of several methods side by side, for a picture and a question: `python -m benchmarks.compare`.

One picture is an illustration and no evidence: `python -m benchmarks.run` measures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from .printing.arguments import Parser, add_flags, add_model, guarded, names, positive

# torch is imported below, in the functions that need it, so that --help and a mistyped flag answer at once.

CAPTION_PROMPT = "Please describe this image in detail."
"""What is asked where no prompt is given: CHAIR's."""

_EPILOG = """examples:
  python -m benchmarks.compare
  python -m benchmarks.compare --prompt "Is there a cat in the image?" --methods none,scr,purified,scr+purified
  python -m benchmarks.compare --methods scr,vcd --method-arg scr.scale=1.5 --method-arg vcd.contrast=2
  python -m benchmarks.compare --methods none,scr --adapters lab/refusal,lab/seed
  python -m benchmarks.compare --model llava-hf/llava-1.5-7b-hf --image kitchen.jpg --image street.png --json
  python -m benchmarks.compare --model llava-hf/llava-1.5-7b-hf --image holiday/

The unpatched model comes first. Each adapter is shown alone and with each method. Words that an answer has and the
first one has not are underlined, those that it lacks are struck through; without colours they are [+so] and [-so].
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        0 if answers were shown, 2 for an argument or input that cannot be used, 1 where the machine failed, 130 if
        interrupted.
    """
    return guarded(lambda: _run(build_parser().parse_args(argv)))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.compare",
        description="Show the answers of several methods and adapters side by side, for a picture and a question.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add_model(parser)
    add("--image", type=Path, action="append", default=[], metavar="FILE",
        help="a picture, or a folder of some; may be given again (a lab model: one of the lab's)")  # fmt: skip
    add("--prompt", type=str, default=CAPTION_PROMPT, metavar="TEXT", help="what is asked (%(default)s)")
    add("--methods", type=names, default=("none", "scr", "purified"), metavar="NAME[,NAME]",
        help="none,scr,purified; A+B is both, one inside the other")  # fmt: skip
    add_flags(parser, "--method-arg")
    add("--adapters", type=names, default=(), metavar="NAME[,NAME]", help="lab/refusal, a folder, a hub id (none)")
    add("--max-new-tokens", type=positive, default=128, metavar="N", help="where answers are cut off (%(default)s)")
    add("--rounds", type=positive, default=3, metavar="N", help="how often each is timed (%(default)s)")
    add("--json", action="store_true", help="print a JSON object a picture, each on a line")
    return parser


def _run(options: argparse.Namespace) -> int:
    import torch

    from .asking.models import find_model, load_model, resolve_device, resolve_dtype, skeleton
    from .printing.side_by_side import as_json, print_answers
    from .running.adapters import overlapping_images, resolve_adapter
    from .running.methods import BASELINE, check_methods, effective_configs, given_configs, recorded_config
    from .studies.side_by_side import Condition, compare_answers, find_images

    methods = list(dict.fromkeys((BASELINE, *map(str.lower, options.methods))))
    check_methods(methods, dict(options.method_arg))
    device = resolve_device(options.device)
    source = find_model(options.model, options.revision)
    dtype = resolve_dtype(options.dtype, device, source)
    images = find_images(options.image, source)
    given = given_configs(methods, source, dict(options.method_arg))
    effective = effective_configs(skeleton(source), given)
    adapters = [None, *(resolve_adapter(name, source) for name in options.adapters)]
    conditions = [Condition(method, adapter) for adapter in adapters for method in methods]
    _say(f"loading {source.name} on {device} in {dtype}")
    loaded = load_model(source, dtype=dtype, device=str(device))
    # As the runner: trained models underflow a lot, and a CPU computes with denormals many times slower.
    torch.set_flush_denormal(True)
    generation = {"do_sample": False, "max_new_tokens": options.max_new_tokens}
    configs = {method: recorded_config(method, effective) for method in methods}
    for number, image in enumerate(images, start=1):
        if len(images) > 1:
            _say(f"picture {number} of {len(images)}: {image}")
        found = compare_answers(
            loaded,
            image,
            options.prompt,
            conditions,
            given,
            generation=generation,
            rounds=options.rounds,
            report=_say,
        )
        trained_on = [one.name for one in adapters if one is not None and overlapping_images(one, [image])]
        head = {
            "model": source.name,
            "revision": source.revision,
            "dtype": dtype,
            "device": str(device),
            "image": str(image),
            "prompt": options.prompt,
            "generation": generation,
            "rounds": options.rounds,
            "adapters_trained_on_image": trained_on,
        }
        if options.json:
            answers = [as_json(one, configs[one.condition.method]) for one in found]
            print(json.dumps({**head, "answers": answers}, ensure_ascii=False), flush=True)
        else:
            print_answers(head, found)
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
