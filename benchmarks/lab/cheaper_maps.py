"""What cheaper maps change: `python -m benchmarks.lab.cheaper_maps`.

Six questions about each image of the lab's validation split, three about what is there and three about its usual
company that is not, one at a time. Each is answered without a method, by SCR, and by its cheaper variants, in turn.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from ..printing.arguments import Parser, guarded, positive
from .evaluate import negatives, prompt_of
from .world.config import WorldConfig
from .world.language import question
from .world.scenes import make_image

# torch is imported below, in the functions that need it, so that --help answers at once.

_MODEL = "lab/llava"
_WHOLE = "scr"
# Name → the method, and fields beside the settings of the checkpoint.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    _WHOLE: (_WHOLE, {}),
    "scr heads=0.2": (_WHOLE, {"heads": 0.2}),
    "scr map_from=image": (_WHOLE, {"map_from": "image"}),
    "scr_one_pass": ("scr_one_pass", {"predictor": _MODEL}),
}


def compare_maps(images: int) -> list[dict[str, Any]]:
    """Ask every question in every variant.

    Args:
        images: how many of the split.

    Returns:
        One entry per variant and one for no method, which comes first: `name`; `sources_shared`, the mean share of
        SCR's sources that are this variant's too; `changed` and `changed_from_none`, answers that are not SCR's, not
        the unpatched model's, of `questions`; `first` and `later`, the median time of an image's first question and of
        its later ones, as ratios to no method for the same question.
    """
    import torch
    from PIL import Image

    import scr

    from ..asking.models import find_model, load_model

    torch.set_flush_denormal(True)
    source = find_model(_MODEL)
    loaded = load_model(source, dtype="float32")
    settings = source.settings["settings"]
    world = WorldConfig()
    pictures = [make_image(world, "val", index) for index in range(images)]
    absent = negatives(pictures, "adversarial", world.seed)
    patches = {
        name: scr.patch(loaded.model, method, **{**settings, **fields, "keep_traces": 1})
        for name, (method, fields) in VARIANTS.items()
    }
    asked = [
        (number, place, loaded.processor(
            text=[prompt_of(loaded.processor, question(name))],
            images=[Image.fromarray(picture.pixels)],
            return_tensors="pt",
        ))
        for number, picture in enumerate(pictures)
        for place, name in enumerate([*list(dict.fromkeys(item.name for item in picture.objects))[:3], *absent[number]])
    ]  # fmt: skip
    found: dict[str, list[tuple[int, frozenset[int], float]]] = {name: [] for name in ("none", *VARIANTS)}

    def ask(name: str, inputs: Any) -> None:
        began = time.perf_counter()
        with torch.inference_mode():
            token = int(loaded.model(**inputs, logits_to_keep=1).logits[0, -1].argmax())
        seconds = time.perf_counter() - began
        sources = patches[name].traces[-1].sources.tolist() if name in patches else []
        found[name].append((token, frozenset(sources), seconds))

    names = list(found)
    # The first once more: what is done once is nobody's time. In turn, since who comes first finds cold caches.
    for turn, (_, _, inputs) in enumerate([asked[0], *asked]):
        for name in [*names[turn % len(names) :], *names[: turn % len(names)]]:
            with patches.get(name, contextlib.nullcontext()):
                ask(name, inputs)
    for rows in found.values():
        del rows[0]
    return [_entry(name, found, [place for _, place, _ in asked]) for name in found]


def _entry(name: str, found: Any, places: Sequence[int]) -> dict[str, Any]:
    none, whole, own = found["none"], found[_WHOLE], found[name]
    shared = [len(one[1] & other[1]) / len(other[1]) for one, other in zip(own, whole, strict=True)]
    ratios = [one[2] / other[2] for one, other in zip(own, none, strict=True)]
    return {
        "name": name,
        "questions": len(own),
        "sources_shared": None if name == "none" else sum(shared) / len(shared),
        "changed": sum(one[0] != other[0] for one, other in zip(own, whole, strict=True)),
        "changed_from_none": sum(one[0] != other[0] for one, other in zip(own, none, strict=True)),
        "first": statistics.median(ratio for ratio, place in zip(ratios, places, strict=True) if not place),
        "later": statistics.median(ratio for ratio, place in zip(ratios, places, strict=True) if place),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table; the exit status."""
    return guarded(lambda: _run(build_parser().parse_args(argv)))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.lab.cheaper_maps", description=__doc__)
    parser.add_argument("--images", type=positive, default=100, metavar="N", help="of the split val (%(default)s)")
    return parser


def _run(options: argparse.Namespace) -> None:
    entries = compare_maps(options.images)
    print(f"{entries[0]['questions']} questions about {options.images} images")
    print("| | sources shared with SCR's | answers not SCR's | not the model's | time, first question | later ones |")
    print("|---|--:|--:|--:|--:|--:|")
    for one in entries:
        shared = "" if one["sources_shared"] is None else f"{one['sources_shared']:.1%}"
        numbers = f"{one['changed']} | {one['changed_from_none']} | {one['first']:.2f} | {one['later']:.2f}"
        print(f"| `{one['name']}` | {shared} | {numbers} |")


if __name__ == "__main__":
    sys.exit(main())
