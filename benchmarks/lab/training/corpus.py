"""The training images in memory: what the tower sees, a label for every patch, and what the language side needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..families import LabFamily
from ..families.base import Region, Shape, resized
from ..world.categories import CATEGORY_ORDER, SCENES
from ..world.scenes import LabImage, make_image
from .recipe import Recipe

__all__ = ["PATCH_LABELS", "Corpus", "build_corpus", "patch_labels"]

# A patch shows a category, or the background of a scene: so the decoder learns which scene it is, as it would from
# the grass and tiles of a photograph.
PATCH_LABELS: tuple[str, ...] = (*CATEGORY_ORDER, *SCENES)


@dataclass(frozen=True)
class Corpus:
    """Images of one split.

    Attributes:
        images: Ground truth per image, without the pixels.
        shapes: Height and width at which each is shown.
        views: What the tower sees of each, ``uint8``; see ``LabFamily.view``.
        labels: Positions in :data:`PATCH_LABELS` of each image's patches, ``(tokens, merge²)``.
    """

    images: list[LabImage]
    shapes: list[Shape]
    views: list[Tensor]
    labels: list[Tensor]


def build_corpus(family: LabFamily, recipe: Recipe, split: str, count: int) -> Corpus:
    """Render the first ``count`` images of a split.

    Args:
        family: Whose views and patches are wanted.
        recipe: The world, and the share a patch must be covered to be labelled.
        split: "train" or "val".
        count: Number of images.
    """
    corpus = Corpus([], [], [], [])
    for index in tqdm(range(count), desc=f"drawing {split}", disable=None, leave=False):
        image = make_image(recipe.world, split, index)
        shape = family.shape_of(index)
        corpus.images.append(replace(image, pixels=np.empty(0, np.uint8)))
        corpus.shapes.append(shape)
        corpus.views.append(family.view(resized(Image.fromarray(image.pixels), shape)))
        corpus.labels.append(patch_labels(image, family.regions(shape), family.merge, recipe.min_cover))
    return corpus


def patch_labels(image: LabImage, regions: Sequence[Region], merge: int, min_cover: float) -> Tensor:
    """Return which label each patch has: the object that covers most of it, else the scene.

    Args:
        image: The image.
        regions: Its grids of patches.
        merge: Patches per side of an image token.
        min_cover: Share of the patch that the object must cover.

    Returns:
        ``int64`` tensor ``(tokens, merge²)``, in the order of ``LabFamily``.
    """
    masks = [(item.name, Image.fromarray(item.mask.astype(np.float32))) for item in image.objects]
    parts = []
    for region in regions:
        labels = np.full((region.rows, region.columns), PATCH_LABELS.index(image.scene))
        best = np.full(labels.shape, min_cover)
        for name, mask in masks:
            left, top, right, bottom = region.box
            box = (left * mask.width, top * mask.height, right * mask.width, bottom * mask.height)
            # The filter takes the mean over what each patch covers.
            cover = np.asarray(mask.resize((region.columns, region.rows), Image.Resampling.BOX, box))
            labels[cover > best] = PATCH_LABELS.index(name)
            best = np.maximum(best, cover)
        grouped = labels.reshape(region.rows // merge, merge, region.columns // merge, merge).swapaxes(1, 2)
        parts.append(torch.from_numpy(grouped.reshape(-1, merge * merge)))
    return torch.cat(parts)
