"""How well a lab model sees, on val: `python -m benchmarks.lab.evaluate [FOLDER]`.

A small check of its own, for tuning the world and for the model card; the benchmarks proper are in
``benchmarks.tasks``.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from tqdm import tqdm

from ..printing.arguments import Parser, guarded, positive
from .world.categories import CATEGORY_ORDER
from .world.config import WORLD_FILE, WorldConfig
from .world.language import DETAIL_PROMPTS, article, is_well_formed, question
from .world.scenes import LabImage, make_image

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

# torch is imported below, in the functions that need it, so that --help answers at once.

__all__ = ["evaluate", "negatives", "prompt_of"]

_POSITIVES = 3
_BATCH = 50


def evaluate(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    count: int,
    world: WorldConfig | None = None,
    *,
    shape: tuple[int, int] | None = None,
    captions: bool = True,
) -> dict[str, Any]:
    """Ask POPE's three kinds of questions and for a detailed caption about the first ``count`` val images.

    Args:
        model: The model; it is put into evaluation mode.
        processor: Its processor.
        count: Number of val images.
        world: The world; None for the lab's own.
        shape: Height and width at which images are given to the processor; None for the world's own.
        captions: Whether to ask for captions too.

    Returns:
        Per kind of question counts and rates, the same of captions; rates are fractions.
    """
    world = world or WorldConfig()
    images = [make_image(world, "val", index) for index in range(count)]
    asked = {kind: negatives(images, kind, world.seed) for kind in ("random", "popular", "adversarial")}
    positives = [list(dict.fromkeys(item.name for item in image.objects))[:_POSITIVES] for image in images]
    pairs = {(i, name) for i in range(count) for chosen in (positives, *asked.values()) for name in chosen[i]}
    model.eval()
    pictures = [Image.fromarray(image.pixels) for image in images]
    if shape is not None:
        pictures = [picture.resize(shape[::-1], Image.Resampling.BICUBIC) for picture in pictures]
    said = _ask(model, processor, pictures, sorted(pairs))
    result: dict[str, Any] = {"images": count, "world": world.digest}
    for kind, absent in asked.items():
        counts: Counter[str] = Counter(tp=0, fp=0, tn=0, fn=0, unparsed=0)
        for i in range(count):
            counts.update({None: "unparsed", True: "tp", False: "fn"}[said[i, name]] for name in positives[i])
            counts.update({None: "unparsed", True: "fp", False: "tn"}[said[i, name]] for name in absent[i])
        total = counts.total()
        result[kind] = {
            **counts,
            "accuracy": (counts["tp"] + counts["tn"]) / total,
            "recall": counts["tp"] / max(1, sum(map(len, positives))),
            "hallucination_rate": counts["fp"] / max(1, counts["fp"] + counts["tn"]),
            "yes_ratio": (counts["tp"] + counts["fp"]) / total,
        }
    if captions:
        result["captions"] = _score_captions(images, _caption(model, processor, pictures))
    return result


def negatives(images: Sequence[LabImage], kind: str, seed: int) -> list[list[str]]:
    """Choose POPE's absent categories for each image, as many as it has positives.

    Args:
        images: The images.
        kind: "random", "popular" (the most frequent ones) or "adversarial" (those seen most with each positive).
        seed: Seed of the random ones.
    """
    frequency = Counter(name for image in images for name in image.present)
    together = Counter((a, b) for image in images for a in image.present for b in image.present if a != b)
    chosen = []
    for index, image in enumerate(images):
        rng = random.Random(f"{seed}/pope/{index}")
        present = list(dict.fromkeys(item.name for item in image.objects))
        absent = [name for name in CATEGORY_ORDER if name not in present]
        wanted = min(_POSITIVES, len(present))
        if kind == "random":
            chosen.append(rng.sample(absent, wanted))
        elif kind == "popular":
            chosen.append(sorted(absent, key=lambda name: -frequency[name])[:wanted])
        else:
            picked: list[str] = []
            for positive in present[:wanted]:
                left = [name for name in absent if name not in picked]
                picked.append(max(left, key=lambda name: together[positive, name]))
            chosen.append(picked)
    return chosen


def prompt_of(processor: ProcessorMixin, text: str) -> str:
    """Return what a processor's chat template makes of an image and a question about it."""
    message: dict[str, Any] = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}
    return processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)


def _ask(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    pictures: Sequence[Image.Image],
    pairs: Sequence[tuple[int, str]],
) -> dict[tuple[int, str], bool | None]:
    import torch

    answers: dict[tuple[int, str], bool | None] = {}
    meaning = {processor.tokenizer.convert_tokens_to_ids(word): word == "yes" for word in ("yes", "no")}
    for start in tqdm(range(0, len(pairs), _BATCH), desc="questions", disable=None, leave=False):
        part = pairs[start : start + _BATCH]
        inputs = processor(
            text=[prompt_of(processor, question(name)) for _, name in part],
            images=[pictures[i] for i, _ in part],
            padding=True,
            return_tensors="pt",
        ).to(model.device)
        with torch.inference_mode():
            first = model(**inputs, logits_to_keep=1).logits[:, -1].argmax(-1)
        answers.update((pair, meaning.get(int(token))) for pair, token in zip(part, first, strict=True))
    return answers


def _caption(model: PreTrainedModel, processor: ProcessorMixin, pictures: Sequence[Image.Image]) -> list[str]:
    import torch

    captions: list[str] = []
    for start in tqdm(range(0, len(pictures), _BATCH), desc="captions", disable=None, leave=False):
        part = list(pictures[start : start + _BATCH])
        inputs = processor(
            text=[prompt_of(processor, DETAIL_PROMPTS[0])] * len(part),
            images=part,
            padding=True,
            return_tensors="pt",
        ).to(model.device)
        with torch.inference_mode():
            output = model.generate(  # type: ignore[operator]
                **inputs, max_new_tokens=64, do_sample=False
            )
        captions += processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return captions


def _score_captions(images: Sequence[LabImage], captions: Sequence[str]) -> dict[str, Any]:
    pattern = "|".join(rf"\b{article(name)} {name}\b" for name in CATEGORY_ORDER)
    counts: Counter[str] = Counter(mentions=0, hallucinated=0, captions_with_hallucination=0, well_formed=0, found=0)
    for image, caption in zip(images, captions, strict=True):
        named = [phrase.split(" ", 1)[1] for phrase in re.findall(pattern, caption, re.IGNORECASE)]
        wrong = [name for name in named if name not in image.present]
        counts.update(mentions=len(named), hallucinated=len(wrong), captions_with_hallucination=bool(wrong))
        counts.update(well_formed=is_well_formed(caption), found=len(set(named) & set(image.present)))
    objects = sum(len(image.present) for image in images)
    return {
        **counts,
        "captions": len(captions),
        "objects": objects,
        "chair_i": counts["hallucinated"] / max(1, counts["mentions"]),
        "chair_s": counts["captions_with_hallucination"] / len(captions),
        "recall": counts["found"] / objects,
        "well_formed_share": counts["well_formed"] / len(captions),
        "examples": list(captions[:3]),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the metrics of a checkpoint as JSON; the exit status."""
    return guarded(lambda: _run(build_parser().parse_args(argv)))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.lab.evaluate", description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, help="a checkpoint that benchmarks.lab.train wrote (the embedded lab/llava)"
    )
    parser.add_argument("--images", type=positive, default=500, metavar="N", help="of the split val (%(default)s)")
    return parser


def _run(options: argparse.Namespace) -> int:
    import torch

    from scr import ConfigError
    from scr.checkpoints.loading import load_processor, load_weights

    from . import checkpoint_folder

    folder = options.folder or checkpoint_folder("lab/llava")
    if not folder.is_dir():
        raise ConfigError(f"no checkpoint: got {str(folder)!r}; expected a folder. Check the path.")
    if not (folder / WORLD_FILE).is_file():
        raise ConfigError(
            f"a model of another world: got {str(folder)!r} without {WORLD_FILE}; expected what benchmarks.lab.train "
            "wrote, as its questions are asked. Measure others with python -m benchmarks.run."
        )
    model = load_weights(str(folder), dtype=torch.float32)
    print(json.dumps(evaluate(model, load_processor(str(folder)), options.images), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
