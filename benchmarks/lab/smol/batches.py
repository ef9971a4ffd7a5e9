"""What a step of the training sees, made from its number alone, and ahead of time in other threads if wanted."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..pictures.categories import CATEGORY_ORDER, SCENES
from ..pictures.language import conversations
from ..pictures.scenes import Scene, make_scene
from .recipe import STAGES, SmolRecipe

__all__ = ["LABELS", "Batch", "batches", "make_batch", "patch_labels"]

# A patch shows a category, or the ground of a place: so the decoder learns which place it is.
LABELS: tuple[str, ...] = (*CATEGORY_ORDER, *SCENES)

_APART = 10_000_000  # a stage's pictures begin so far from those of the stage before


class Batch(NamedTuple):
    """Pictures and what is trained on them.

    Attributes:
        pixels: ``uint8``, ``(batch, height, width, 3)``.
        labels: Positions in `LABELS` of each picture's patches, ``(batch, patches)``.
        asked: For each picture, pairs of prompt and answer; empty but in stage 3.
    """

    pixels: Tensor
    labels: Tensor
    asked: list[list[tuple[str, str]]]


def make_batch(recipe: SmolRecipe, stage: str, split: str, step: int) -> Batch:
    """Return what a step of a stage sees: a function of the arguments alone.

    Args:
        recipe: The recipe.
        stage: A name of `STAGES`.
        split: "train" or "val".
        step: Its number.
    """
    size = recipe.stage(stage).batch
    first = STAGES.index(stage) * _APART + step * size
    scenes = [make_scene(recipe.world, split, first + number) for number in range(size)]
    rng = random.Random(f"{recipe.seed}/{stage}/{split}/{step}")
    return Batch(
        torch.from_numpy(np.stack([scene.pixels for scene in scenes])),
        torch.stack([patch_labels(scene, recipe.size.side, recipe.min_cover) for scene in scenes]),
        [conversations(scene, recipe.world, recipe.questions, rng) for scene in scenes] if stage == "lora" else [],
    )


@contextmanager
def batches(recipe: SmolRecipe, stage: str, workers: int = 0) -> Iterator[Callable[[int], Batch]]:
    """Give the batches of a stage by the number of their step, asked for one after the other.

    Args:
        recipe: The recipe.
        stage: A name of `STAGES`.
        workers: Threads that make the next ones meanwhile; 0 makes each when it is asked for.
    """
    make = partial(make_batch, recipe, stage, "train")
    if not workers:
        yield make
        return
    with ThreadPoolExecutor(workers) as pool:
        ahead: dict[int, Future[Batch]] = {}

        def get(step: int) -> Batch:
            last = min(step + 2 * workers, recipe.stage(stage).steps - 1)
            for number in range(step, last + 1):
                if number not in ahead:
                    ahead[number] = pool.submit(make, number)
            return ahead.pop(step).result()

        try:
            yield get
        finally:
            pool.shutdown(cancel_futures=True)


def patch_labels(scene: Scene, side: int, min_cover: float) -> Tensor:
    """Return which label each patch has: the thing that covers most of it, else the place.

    Args:
        scene: The picture.
        side: Patches per side.
        min_cover: Share of the patch that the thing must cover.

    Returns:
        ``int64`` tensor ``(side²,)``, row by row.
    """
    labels = np.full((side, side), LABELS.index(scene.scene))
    best = np.full(labels.shape, min_cover)
    for item in scene.objects:
        patch = item.mask.shape[0] // side
        cover = item.mask.reshape(side, patch, side, patch).mean((1, 3))
        labels[cover > best] = LABELS.index(item.name)
        best = np.maximum(best, cover)
    return torch.from_numpy(labels.ravel())
