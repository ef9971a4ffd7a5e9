"""A user's images, of whatever kind, as pictures in RGB that stand upright."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import torch
from PIL import Image
from transformers.image_transforms import to_pil_image
from transformers.image_utils import load_image

from ..errors import ConfigError, SCRError

_SIXTEEN = 256  # levels of 16 bits that are one of 8


class ImageError(SCRError, ValueError):
    """Something is no image that can be read."""


def name_of(image: Any, number: int) -> str:
    """What an image is called: a path or URL as given, everything else by its number, which counts from 1."""
    return os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {number}"


def read_image(image: Any) -> Image.Image:
    """The image as transformers' `load_image` converts it: turned as its EXIF says, in RGB, without its alpha.

    Of 16 bits the upper 8 are kept, where `load_image` would make all but the darkest white.

    Args:
        image: a path, a `file:` URL, a PIL image, or an array or tensor: (height, width), (height, width, channels) or
            (channels, height, width), of 1, 3 or 4 channels; of floats from 0 to 1, or of integers of 8 or 16 bits.

    Raises:
        ImageError: for what is none of these, or cannot be read.
    """
    try:
        if isinstance(image, str | os.PathLike):
            with Image.open(_path(os.fspath(image))) as opened:
                return _in_rgb(opened)
        return _in_rgb(image if isinstance(image, Image.Image) else _from_array(image))
    except (MemoryError, ImageError):
        raise
    except Exception as error:  # of a broken file almost anything; of an enormous one PIL's DecompressionBombError
        got = repr(image) if isinstance(image, str | os.PathLike) else f"a {type(image).__name__}"
        # Said once, so that who passes the error on can call the file as they like.
        problem = " ".join(str(error).replace(got, "it").replace(repr(_said(image)), "it").split())[:200]
        raise ImageError(
            f"no picture: got {got} ({type(error).__name__}: {problem}); expected a picture's file, a PIL image, or an "
            "array of pixels. Check it."
        ) from error


def as_list(images: Any) -> list[Any]:
    """The images one by one: a single one is a list of it, an array with four axes holds one after the other.

    Raises:
        ConfigError: for what is neither an image nor several.
    """
    if isinstance(images, str | os.PathLike | Image.Image) or getattr(images, "ndim", None) in (2, 3):
        return [images]
    if not hasattr(images, "__iter__"):
        raise ConfigError(f"no images: got a {type(images).__name__}; expected a list of them. Give paths or pictures.")
    return list(images)


def _said(image: Any) -> str:
    """What Pillow calls a file in its errors."""
    return str(_path(os.fspath(image))) if isinstance(image, str | os.PathLike) else ""


def _path(given: str) -> Path:
    if given.lower().startswith("file:"):
        parts = urlsplit(given)
        if parts.netloc not in ("", "localhost"):
            raise ImageError(
                f"a file of another machine: got {given!r}; expected file:///PATH. Copy the file here first."
            )
        return Path(url2pathname(parts.path))
    if "://" in given:
        raise ImageError(f"an image from a network: got {given!r}; expected a path or a file: URL. Download it first.")
    return Path(given).expanduser()


def _in_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.getextrema()[1] > 255):  # type: ignore[operator]
        image = image.convert("I").point(lambda level: level * (1 / _SIXTEEN)).convert("L")
    if image.mode == "P" and "transparency" in image.info:
        # Pillow asks for this way, which has the same colours, by a warning.
        image = image.convert("RGBA")
    return load_image(image)


def _from_array(array: Any) -> Image.Image:
    pixels = array.detach().cpu() if isinstance(array, torch.Tensor) else torch.tensor(array)
    if pixels.dtype == torch.uint16:
        pixels = (pixels.int() // _SIXTEEN).to(torch.uint8)
    least, most = (float(one) for one in pixels.aminmax())
    if least < 0 or most > 255:
        raise ValueError(f"values from {least:g} to {most:g}")
    if pixels.ndim == 2:
        pixels = pixels[None]
    if pixels.ndim == 3 and not {1, 3} & {pixels.shape[0], pixels.shape[2]}:
        pixels = pixels[:3] if pixels.shape[0] == 4 else pixels[:, :, :3]
    # Left to itself it takes 0.0 and 1.0 alone for levels of 255.
    return to_pil_image(pixels, do_rescale=True if pixels.is_floating_point() and most <= 1 else None)
