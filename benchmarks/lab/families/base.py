"""What training asks of a model family: how it is built, what its tower is shown, and which tokens show which part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerFast

from ..world.packing import Chat
from .tokenizer import SpecialTokens, build_tokenizer

__all__ = ["LabFamily", "ModelSize", "Region", "Shape", "normalized", "resized"]

Shape = tuple[int, int]  # height and width of an image in pixels


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Sizes of a lab model; the defaults are those of `lab/llava`.

    Attributes:
        image_size: Side of the world's images, in pixels.
        patch_size: Side of a patch of the vision tower, in pixels.
        vision_width: Hidden size of the vision tower.
        vision_mlp: Inner size of its feed-forward blocks.
        vision_blocks: Its depth.
        text_width: Hidden size of the decoder.
        text_mlp: Inner size of its feed-forward blocks.
        text_blocks: Its depth.
        heads: Attention heads of both.
    """

    image_size: int = 96
    patch_size: int = 8
    vision_width: int = 128
    vision_mlp: int = 512
    vision_blocks: int = 4
    text_width: int = 128
    text_mlp: int = 352
    text_blocks: int = 8
    heads: int = 4


class Region(NamedTuple):
    """A part of an image that the tower sees as one grid of patches.

    Attributes:
        box: Left, top, right and bottom, as shares of the image.
        rows: Rows of patches.
        columns: Columns of patches.
    """

    box: tuple[float, float, float, float]
    rows: int
    columns: int


class LabFamily(ABC):
    """A family at given sizes.

    An image token stands for ``merge`` × ``merge`` patches of the tower. Patches come grouped by their image token, in
    the order in which the projector joins them: row by row within a token, and tokens row by row within a region.

    Attributes:
        name: Its name in the tables.
        title: What a model of it is, with its article, for the model card.
        parts: What it is made of, likewise; ends with the decoder.
        sees: How it sees an image, likewise.
        special: The tokens of its tokenizer that are no words.
        template: Its chat template.
        around_image: What its processor puts before and after an image's tokens.
        merge: Patches per side of an image token.
        other_shapes: Further sizes of the images at which the model card states POPE.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    parts: ClassVar[str]
    sees: ClassVar[str]
    special: ClassVar[SpecialTokens]
    template: ClassVar[str]
    around_image: ClassVar[tuple[str, str]] = ("", "")
    merge: ClassVar[int] = 1
    other_shapes: ClassVar[tuple[Shape, ...]] = ()

    def __init__(self, size: ModelSize) -> None:
        self.size = size

    @abstractmethod
    def untrained(self) -> Any:
        """Build the model with weights from torch's generator as it is."""

    @abstractmethod
    def build_processor(self) -> Any:
        """Build the processor that a checkpoint is saved with."""

    @abstractmethod
    def tower(self, model: Any) -> nn.Module:
        """Return what stage 1 trains: the vision tower."""

    @abstractmethod
    def projector(self, model: Any) -> nn.Module:
        """Return what makes image tokens of the tower's patches."""

    @abstractmethod
    def regions(self, shape: Shape) -> list[Region]:
        """Return the grids of patches that the tower sees of an image of this size, in the order of its tokens."""

    @abstractmethod
    def view(self, picture: Image.Image) -> Tensor:
        """Return what the processor would show the tower of an image, before normalisation, as ``uint8``."""

    @abstractmethod
    def encode(self, model: Any, views: Sequence[Tensor]) -> Tensor:
        """Return what the projector takes, of several images in a row: ``(tokens, merge², vision_width)``."""

    def project(self, model: Any, features: Tensor) -> Tensor:
        """Turn ``(tokens, merge², vision_width)`` into image tokens ``(tokens, text_width)``."""
        return self.projector(model)(features.flatten(1))

    def shape_of(self, index: int) -> Shape:
        """Return at which size training shows image ``index``."""
        return self.size.image_size, self.size.image_size

    def tokens(self, shape: Shape) -> int:
        """Return how many image tokens an image of this size has."""
        return sum(region.rows * region.columns for region in self.regions(shape)) // self.merge**2

    def positions(self, shape: Shape) -> Tensor:
        """Return the decoder's position of each image token, from 0: ``(axes, tokens)``."""
        return torch.arange(self.tokens(shape))[None]

    def build_model(self, seed: int) -> Any:
        """Build an untrained model; its weights are a function of the sizes and ``seed``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.untrained()
        with torch.no_grad():
            # A decoder that copies the word of a patch then needs no rotation to say it.
            model.lm_head.weight.copy_(model.get_input_embeddings().weight)
        model.generation_config = GenerationConfig(do_sample=False, **self.special_ids)
        return model

    def token_id(self, token: str) -> int:
        """Return the identity of a special token."""
        return self.special.tokens.index(token)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer."""
        return build_tokenizer(self.special)

    @cached_property
    def special_ids(self) -> dict[str, Any]:
        """Padding, start and end, as configurations take them."""
        return {name: getattr(self.tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}

    @property
    def image_token_id(self) -> int:
        """The placeholder of image tokens."""
        return self.token_id(self.special.image)

    @cached_property
    def chat(self) -> Chat:
        """What the chat template puts around an image and a question."""
        message: dict[str, Any] = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "\0"}]}
        text = str(
            self.tokenizer.apply_chat_template(
                [message], chat_template=self.template, add_generation_prompt=True, tokenize=False
            )
        )
        before, rest = text.split(self.special.image)
        after, closing = rest.split("\0")
        opening, ending = self.around_image
        return Chat(self.tokenizer, before + opening, self.image_token_id, ending + after, closing)


def normalized(pixels: Tensor) -> Tensor:
    """Turn ``uint8`` images ``(batch, height, width, 3)`` into what the processor gives: ``(batch, 3, ...)`` in ±1."""
    return pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1.0)


def resized(picture: Image.Image, shape: Shape) -> Image.Image:
    """Return an image at a height and width, by the filter that the lab's processors use."""
    return picture.resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
