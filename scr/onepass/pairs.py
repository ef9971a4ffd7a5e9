"""Which prompts are asked about which images: drawn by a seed, the same in every process."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
from torch import Tensor

from ..adapters.encoding import format_prompt, taken_by_processor
from ..errors import ConfigError, DataFileError
from ..files import read_text

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One question about one image.

    Attributes:
        image: the picture's file.
        prompt: the text, without the model's own turn markers.
    """

    image: Path
    prompt: str

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of the image's name and size, and the prompt."""
        known = (self.image.name, self.image.stat().st_size, self.prompt)
        return hashlib.sha256(repr(known).encode()).hexdigest()[:16]


def find_images(folder: Path) -> list[Path]:
    """The pictures in a folder and below it, by name.

    Raises:
        ConfigError: if there are none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    if not found:
        raise ConfigError(
            f"no images: got none in {folder}; expected files that end in one of {', '.join(_SUFFIXES)}. Give a folder "
            "of pictures."
        )
    return found


def read_prompts(path: Path) -> list[str]:
    """The prompts in a text file, one a line.

    Raises:
        DataFileError: for a file that cannot be read.
        ConfigError: for one without a prompt.
    """
    prompts = [line.strip() for line in read_text(path).split("\n") if line.strip()]
    if not prompts:
        raise ConfigError(f"no prompts: got an empty {path}; expected one a line. Give another file.")
    return prompts


def draw_pairs(images: list[Path], prompts: list[str], count: int, seed: int) -> list[Pair]:
    """Pairs, each image once before one comes twice; what is drawn first is the same for every count."""
    order = random.Random(seed).sample(images, len(images))
    return [
        Pair(image=order[number % len(order)], prompt=random.Random(f"{seed}/{number}").choice(prompts))
        for number in range(count)
    ]


def open_image(path: Path) -> Any:
    """A picture, in RGB.

    Raises:
        DataFileError: for a file that is none.
    """
    try:
        with PIL.Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise DataFileError(
            f"no picture: got {path} ({error}); expected one that Pillow can open. Repair or remove it."
        ) from error


def encode_pairs(processor: Any, pairs: Sequence[Pair], model: Any) -> dict[str, Any]:
    """What the model's forward takes for a batch of pairs, on its device.

    Raises:
        ConfigError: for what the processor cannot take.
    """
    texts = [format_prompt(processor, pair.prompt) for pair in pairs]
    begin = processor.tokenizer.bos_token
    special = not (begin and texts[0].startswith(begin))  # a template may write the begin token itself
    images = [[open_image(pair.image)] for pair in pairs]
    got = f"{pairs[0].prompt[:40]!r} about {pairs[0].image.name} and {len(pairs) - 1} more"
    with taken_by_processor("prompts", got):
        inputs = processor(text=texts, images=images, padding=True, return_tensors="pt", add_special_tokens=special)
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        if isinstance(value, Tensor)
        else value
        for name, value in inputs.items()
    }
