"""A batch of a user's images, encoded; what cannot be used is named and left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image

from .encoding import encode_prompts
from .images import ImageError, read_image


class Prepared(NamedTuple):
    """What is left of a batch.

    Attributes:
        pictures: index of an image in the batch → its picture, in order.
        inputs: what `generate` takes for them; None where none is left.
        problems: index of an image → why it cannot be used.
    """

    pictures: dict[int, Image.Image]
    inputs: dict[str, Any] | None
    problems: dict[int, str]


def prepare(model: Any, processor: Any, prompt: str, images: Sequence[Any]) -> Prepared:
    """Read and encode a batch of images, each with the prompt.

    Raises:
        Exception: whatever the processor does of a batch whose images it takes one by one.
    """
    pictures, problems = {}, {}
    for index, image in enumerate(images):
        try:
            pictures[index] = read_image(image)
        except ImageError as error:
            problems[index] = str(error)
    try:
        return Prepared(pictures, _encode(model, processor, prompt, pictures), problems)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception:  # processors raise whatever an odd picture leads them to, such as one a pixel wide
        refused = _refused(model, processor, prompt, pictures)
    # A fault of the batch as a whole is raised here, a second time.
    usable = {index: picture for index, picture in pictures.items() if index not in refused}
    return Prepared(usable, _encode(model, processor, prompt, usable), problems | refused)


def _encode(model: Any, processor: Any, prompt: str, pictures: dict[int, Image.Image]) -> dict[str, Any] | None:
    if not pictures:
        return None
    return encode_prompts(model, processor, [prompt] * len(pictures), list(pictures.values()))


def _refused(model: Any, processor: Any, prompt: str, pictures: dict[int, Image.Image]) -> dict[int, str]:
    refused = {}
    for index, picture in pictures.items():
        try:
            encode_prompts(model, processor, [prompt], [picture])
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            problem = " ".join(str(error).split())[:200]
            refused[index] = (
                f"a picture that the processor refuses: got {picture.width} × {picture.height} pixels "
                f"({type(error).__name__}: {problem}); expected one that it takes. Crop or resize it."
            )
    return refused
