"""The training images in memory: pixels, a label for every patch, and what the language side needs to know."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .categories import CATEGORY_ORDER, SCENES
from .recipe import Recipe
from .world import LabImage, make_image

__all__ = ["PATCH_LABELS", "Corpus", "build_corpus", "patch_labels"]

# A patch shows a category, or the background of a scene: so the decoder learns which scene it is, as it would from
# the grass and tiles of a photograph.
PATCH_LABELS: tuple[str, ...] = (*CATEGORY_ORDER, *SCENES)


@dataclass(frozen=True)
class Corpus:
    """Images of one split.

    Attributes:
        images: Ground truth per image, without the pixels.
        pixels: ``uint8`` tensor ``(images, height, width, 3)``.
        labels: ``int64`` tensor ``(images, patches)`` of positions in :data:`PATCH_LABELS`.
    """

    images: list[LabImage]
    pixels: Tensor
    labels: Tensor


def build_corpus(recipe: Recipe, split: str, count: int) -> Corpus:
    """Render the first ``count`` images of a split.

    Args:
        recipe: The world, the patch size and the share a patch must be covered to be labelled.
        split: "train" or "val".
        count: Number of images.
    """
    size = recipe.size
    images: list[LabImage] = []
    pixels = np.empty((count, size.image_size, size.image_size, 3), np.uint8)
    labels = np.empty((count, size.patches), np.int64)
    for index in tqdm(range(count), desc=f"drawing {split}", disable=None, leave=False):
        image = make_image(recipe.world, split, index)
        pixels[index] = image.pixels
        labels[index] = patch_labels(image, size.patch_size, recipe.min_cover)
        images.append(replace(image, pixels=np.empty(0, np.uint8)))
    return Corpus(images, torch.from_numpy(pixels), torch.from_numpy(labels))


def patch_labels(image: LabImage, patch_size: int, min_cover: float) -> np.ndarray:
    """Return which label each patch has: the object that covers most of it, else the scene.

    Args:
        image: The image.
        patch_size: Side of a patch in pixels.
        min_cover: Share of the patch that the object must cover.

    Returns:
        ``int64`` array ``(patches,)``, row by row.
    """
    grid = image.objects[0].mask.shape[0] // patch_size
    labels = np.full((grid, grid), PATCH_LABELS.index(image.scene))
    best = np.full((grid, grid), min_cover)
    for item in image.objects:
        cover = item.mask.reshape(grid, patch_size, grid, patch_size).mean(axis=(1, 3))
        labels[cover > best] = PATCH_LABELS.index(item.name)
        best = np.maximum(best, cover)
    return labels.reshape(-1)
