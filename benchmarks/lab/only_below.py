"""What `only_below` saves: `python -m benchmarks.lab.only_below`.

Captions of the lab's validation split, one image at a time and in a batch, without a method, purified at every token,
and purified where the confidence is below its quartiles. All take turns on each batch, in one process.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from scr import BASELINE

from ..printing.arguments import Parser, add_lab_model, guarded, positive

# torch is imported below, in the functions that need it, so that --help answers at once.


def measure_saving(model: str, images: int, batch_size: int) -> list[dict[str, Any]]:
    """Time every variant on every batch.

    Args:
        model: a lab name.
        images: how many of the split.
        batch_size: captions per `generate`.

    Returns:
        One entry per variant: `name`; `only_below`, None for every token; `forwards`, those of the noisy branch per
        forward of the clean one, None where they are the same forwards; `time` as a ratio to no method, the median
        over the batches; and `changed`, the share of captions that are not those of purification at every token.
    """
    import torch

    import scr

    from ..asking.answering import Answerer, Question
    from ..asking.models import load_model
    from ..running.plan import RunConfig, build_plan
    from ..studies.calibration import confidence_thresholds

    torch.set_flush_denormal(True)
    config = RunConfig(
        model=model, methods=(BASELINE,), tasks=("chair",), split="val", limit=images, batch_size=batch_size
    )
    plan = build_plan(config)
    loaded = load_model(plan.source, dtype=plan.dtype, device=str(plan.device))
    answerer, cell = Answerer(loaded), plan.cells[0]
    network: Any = loaded.model
    options = {**cell.generation, "pad_token_id": loaded.processor.tokenizer.pad_token_id}
    thresholds = confidence_thresholds(config)

    def plain(inputs: dict[str, Any]) -> tuple[Any, float | None]:
        return network.generate(**inputs, **options), None

    def joined(inputs: dict[str, Any]) -> tuple[Any, float | None]:
        with scr.patch(network, "purified", engine="joined"):
            return network.generate(**inputs, **options), None

    def alone(only_below: float | None) -> Callable[[dict[str, Any]], tuple[Any, float | None]]:
        def generate(inputs: dict[str, Any]) -> tuple[Any, float | None]:
            processor = scr.PurifiedLogitsProcessor(network, inputs, only_below=only_below)
            tokens = network.generate(**inputs, **options, logits_processor=[processor])
            return tokens, processor.branch.forwards / (tokens.shape[1] - inputs["input_ids"].shape[1])

        return generate

    variants: list[tuple[str, float | None, Callable[[dict[str, Any]], tuple[Any, float | None]]]] = [
        ("no method", None, plain),
        ("every token, one forward for both", None, joined),
        ("every token", None, alone(None)),
        *(
            (f"below the {name} quartile", value, alone(value))
            for name, value in zip(_QUARTILES, thresholds, strict=True)
        ),
    ]
    times: list[list[float]] = [[] for _ in variants]
    forwards: list[list[float]] = [[] for _ in variants]
    texts: list[list[str]] = [[] for _ in variants]
    wanted = cell.work.wanted_samples
    for start in range(0, len(wanted), batch_size):
        samples = wanted[start : start + batch_size]
        inputs = answerer.encode([Question(id=one.id, image=one.image, prompt=one.prompt) for one in samples])
        for number, (_, _, generate) in enumerate(variants):
            if not start:
                generate(inputs)  # the first call allocates, and would pay for all
            began = time.perf_counter()
            tokens, share = generate(inputs)
            times[number].append(time.perf_counter() - began)
            forwards[number] += [] if share is None else [share]
            texts[number] += loaded.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return [
        {
            "name": name,
            "only_below": value,
            "forwards": statistics.mean(forwards[number]) if forwards[number] else None,
            "time": statistics.median(own / base for own, base in zip(times[number], times[0], strict=True)),
            "changed": statistics.mean(own != full for own, full in zip(texts[number], texts[2], strict=True)),
        }
        for number, (name, value, _) in enumerate(variants)
    ]


_QUARTILES = ("lower", "middle", "upper")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    return guarded(lambda: _run(build_parser().parse_args(argv)))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.lab.only_below", description="Measure what only_below saves.")
    add_lab_model(parser)
    parser.add_argument("--images", type=positive, default=40, metavar="N", help="of the split val (%(default)s)")
    parser.add_argument("--batch-size", type=positive, default=1, metavar="N", help="captions at once (%(default)s)")
    return parser


def _run(options: argparse.Namespace) -> int:
    print("| purified | only_below | noisy forwards per token | time × | other captions |\n|---|--:|--:|--:|--:|")
    for one in measure_saving(options.model, options.images, options.batch_size):
        below = "" if one["only_below"] is None else f"{one['only_below']:.4f}"
        forwards = "" if one["forwards"] is None else f"{one['forwards']:.2f}"
        print(f"| {one['name']} | {below} | {forwards} | {one['time']:.2f} | {100 * one['changed']:.0f} % |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
