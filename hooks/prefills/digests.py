"""Which image a prompt holds, told by what no rounding moves: its pixels, or the tokens where features came instead.

Features would not do: in another batch their last digits differ, and bfloat16 has but three.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from ..encoding import PIXELS
from ..families import ImagePatches, find_family
from .queries import visual_tokens

Digests = dict[tuple[int, int], str]
"""(row, image) of a prefill → what its noise is keyed by."""


def image_digest(image: Float[Tensor, "tiles 3 height width"]) -> str:
    """Of the exact pixels, as float32, and their shape. Pixels rounded to bfloat16 are other pixels."""
    digest = hashlib.sha256(str(tuple(image.shape)).encode())
    digest.update(image.detach().cpu().float().contiguous().numpy().data)
    return digest.hexdigest()


def pixel_digests(model: Any, inputs: Mapping[str, Any], modality: str) -> list[str]:
    """`image_digest` of every image, or video, in the order in which `map_pixels` meets them; none without pixels.

    Raises:
        PromptLayoutError: for pixels that are not laid out as the model's processor does.
    """
    digests, name = [], PIXELS[modality]

    def read(image: Tensor) -> Tensor:
        digests.append(image_digest(image))
        return image

    if inputs.get(name) is not None:
        find_family(model).map_pixels(model, inputs, read, name)
    return digests


def prefill_digests(
    model: Any,
    images: Sequence[ImagePatches],
    inputs: Mapping[str, Any],
    real: Bool[Tensor, "rows seq"],
    given: Mapping[str, Any],
    copies: int = 1,
) -> Digests:
    """A digest of each image of a prefill, the same alone and in any batch, by `generate` and by `forward`.

    Where the pixels are not to be had, or tiles of one image not told from those of the next, the row's ids make it:
    then images of equal size after equal words have equal digests.

    Args:
        model: of a supported family.
        images: all of the prefill, row after row, in prompt order.
        inputs: of the model's forward.
        real: which tokens are the prompt's own, and no padding; on the CPU. Its rows are those that `images` count.
        given: where the pixels are: `inputs`, or what `generate` was given.
        copies: how many of these rows there are for each row of `given`, one below the other.
    """
    family, found = find_family(model), Digests()
    for modality, mask in visual_tokens(family, model, inputs).items():
        mask = mask[:: len(mask) // len(real)]
        own = [one for one in images if one.row % copies == 0 and mask[one.row, one.positions[0]]]
        counts = [family.pixel_images(one, modality) for one in own]
        digests = pixel_digests(model, given, modality)
        if len(digests) == sum(counts):
            parts = iter(digests)
            found |= {
                (one.row, one.index): ",".join(islice(parts, count)) for one, count in zip(own, counts, strict=True)
            }
    ids = inputs.get("input_ids")
    for image in images:
        row = image.row - image.row % copies
        if (row, image.index) not in found:
            words = None if ids is None else ids[:: len(ids) // len(real)][row].cpu()[real[row]].tolist()
            found[row, image.index] = repr((words, image.index, image.grids))
        found[image.row, image.index] = found[row, image.index]
    return found
