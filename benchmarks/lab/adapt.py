"""Train adapters of the lab's models: `python -m benchmarks.lab.adapt seed`. Killed, the same command resumes."""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..printing.arguments import Parser, guarded, key_value, positive, threads
from . import ASSEMBLED, MODELS, data_folder
from .training.launch import start_anew
from .world.language import DETAIL_PROMPTS, article, question

if TYPE_CHECKING:
    from scr.adapters import RefusalRow, Row, Trained

    from ..tasks.coco import CocoData

# torch is imported below, in the functions that need it, so that --help answers at once.

__all__ = ["LAB_CHANGES", "adapt", "refusals", "seed_rows"]

_MODEL = "lab/llava"
# The lab's models have no word for "I". Answers are made of the words that they have, and as in the source the first
# word decides.
_STATEMENT = "The image shows {article} {object}."
_DENIAL = "There is no {object} in this image."
_TEMPLATES = (
    "Describe the {object} in this image.",
    "Please describe the {object}.",
    "What is the {object} in this image?",
    "Which {object} is shown in this image?",
)

# What differs from seed.toml and refusal.toml for the small models, and why; a language model takes them as they are.
LAB_CHANGES: dict[str, dict[str, Any]] = {
    "seed": {
        "rank": 32,  # a quarter of the decoder's width; 64 would be half of it, and 2 MB
        "alpha": 64,  # twice the rank, as there
        # 75 steps on 300 images: the mean loss of the last 20 was 0.508, 0.423 and 0.350 at 2e-6, 1e-4 and 1e-3.
        "learning_rate": 1e-3,
        "batch_size": 8,  # the same eight rows per step, in one forward
        "accumulation": 1,
        "dtype": "float32",
    },
    "refusal": {
        # Five epochs at 3e-4 and 1e-3, ten at 3e-3: the mean loss of the last 125 steps was 0.217, 0.068 and 0.121, and
        # at 3e-3 the model had stopped to look: the AUC of its yes/no answers on validation was 0.51.
        "learning_rate": 1e-3,
        "epochs": 5,  # the source has 10, of 64 rows; these are 3,000
        "batch_size": 8,
        "accumulation": 1,
        "dtype": "float32",
    },
}
_IMAGES = 1_500
_PAIRS = 1_500


def adapt(
    kind: str,
    output: Path,
    changes: dict[str, Any] | None = None,
    *,
    model: str = _MODEL,
    images: int = _IMAGES,
    pairs: int = _PAIRS,
    show_progress: bool = False,
) -> Trained:
    """Train an adapter of a lab model on images of the train split of its world.

    Args:
        kind: "seed" or "refusal".
        output: where it goes.
        changes: values of the recipe in place of the lab's.
        model: its name.
        images: how many images of the split, the first.
        pairs: of a refusal: how many pairs of questions, at most as many as images.
        show_progress: a bar on standard error.

    Returns:
        What the training gave.
    """
    import torch

    from scr.adapters import join_team, load_recipe, train_adapter

    from ..asking.models import find_model, load_model
    from ..tasks.coco import CocoData

    torch.set_flush_denormal(True)
    source, small = find_model(model), model not in ASSEMBLED
    data = CocoData.open(data_folder("train", images, model), "train")
    pairs = min(pairs, images)
    rows = seed_rows(data) if kind == "seed" else [_as_row(one) for one in refusals(data, pairs, small=small)]
    recipe = load_recipe(kind, {**(LAB_CHANGES[kind] if small else {}), **(changes or {})})
    loaded = load_model(source, dtype=recipe.dtype)
    with join_team() as team:
        return train_adapter(
            loaded.model,
            loaded.processor,
            rows,
            recipe,
            output,
            kind=kind,
            base=model,
            base_revision=source.revision,
            team=team,
            show_progress=show_progress,
        )


def seed_rows(data: CocoData, seed: int = 0) -> list[Row]:
    """For each image the detailed caption that its annotations begin with, and one question for an object.

    The captions of the train split sometimes name what is not there, as those do that the model itself was trained on.
    """
    from scr.adapters import Row

    names = sorted({name for image in data.images for name in data.objects(image.id)})
    rows = []
    for image in data.images:
        generator, present = random.Random(f"{seed}/{image.id}"), data.objects(image.id)
        answer = generator.choice(("Yes", "No"))
        asked = generator.choice(present if answer == "Yes" else [name for name in names if name not in present])
        pairs = ((DETAIL_PROMPTS[0], data.captions(image.id)[0]), (question(asked), answer))
        rows += [Row(name=f"image {image.id}", image=image.path, question=one, answer=two) for one, two in pairs]
    return rows


def refusals(data: CocoData, pairs: int, seed: int = 0, *, small: bool = True) -> list[RefusalRow]:
    """Pairs of questions about what is there and what is not; what is there is said to be there.

    In the few words that the small models have, or in those of `benchmarks.refusal_data`.
    """
    from scr.adapters import refusal_rows

    from ..tasks.known import known_images, place_of

    if not small:
        return refusal_rows(known_images(data, place_of), pairs, seed)
    known = known_images(data, lambda _, __, name: _STATEMENT.format(article=article(name), object=name))
    return refusal_rows(known, pairs, seed, templates=_TEMPLATES, denial=_DENIAL)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: train, or merge; the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    return guarded(
        lambda: _run(parser, parser.parse_args(given), given),
        "interrupted; the same command goes on from the last saved state",
    )


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.lab.adapt", description=__doc__)
    parser.add_argument("what", choices=("seed", "refusal", "merge"), help="what to train; or merge one with its model")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where it goes (default: inside the package)")
    parser.add_argument(
        "--set", type=key_value, action="append", default=[], metavar="K=V", help="a value of the recipe"
    )
    parser.add_argument("--images", type=positive, default=_IMAGES, metavar="N", help=f"training images ({_IMAGES})")
    parser.add_argument("--pairs", type=positive, default=_PAIRS, metavar="N", help=f"of a refusal ({_PAIRS})")
    parser.add_argument("--model", choices=MODELS, default=_MODEL, metavar="NAME", help=f"whose adapter ({_MODEL})")
    parser.add_argument("--adapter", default="lab/refusal", metavar="NAME", help="what to merge (lab/refusal)")
    parser.add_argument("--threads", type=threads, default=2, metavar="N", help="processor threads (2)")
    return parser


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace, given: Sequence[str]) -> None:
    if options.what == "merge" and options.output is None:
        parser.error("a merged checkpoint needs a place: give --output")
    start_anew("adapt", given)
    import torch

    from scr.adapters import merge_adapter, plot_curve, write_card

    from ..asking.models import load_model

    torch.set_num_threads(options.threads)
    if options.what == "merge":
        loaded = load_model(options.model)
        merge_adapter(loaded.model, options.adapter, options.output, processor=loaded.processor)
        print(options.output)
        return
    if options.output is None and options.model != _MODEL:
        parser.error(f"the package holds adapters of {_MODEL}: give --output for one of {options.model}")
    folder = options.output or Path(__file__).parent / "adapters" / options.what
    trained = adapt(
        options.what,
        folder,
        dict(options.set),
        model=options.model,
        images=options.images,
        pairs=options.pairs,
        show_progress=True,
    )
    if os.environ.get("RANK", "0") == "0":
        write_card(
            trained.folder,
            data=f"The train split of the world of {options.model}: see `benchmarks/lab/adapt.py`.",
            license="apache-2.0",
        )
        plot_curve(trained.folder)
        print(trained.folder)


def _as_row(one: RefusalRow) -> Row:
    from scr.adapters import Row

    return Row(name=f"{one.object} in {one.image.name}", image=one.image, question=one.question, answer=one.answer)


if __name__ == "__main__":
    sys.exit(main())
