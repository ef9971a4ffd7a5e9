"""The questions that every model family answers: where the decoder is, and which tokens are which image patches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import PromptLayoutError, UnsupportedModelError
from ..towers import tower_salience

_BLOCK = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}


class PatchGrid(NamedTuple):
    """Height and width, in patches, of one raster of image tokens."""

    height: int
    width: int


def _no_tokens() -> Int[Tensor, "none"]:
    return torch.zeros(0, dtype=torch.long, device="cpu")


@dataclass(frozen=True, eq=False)
class ImagePatches:
    """Where one image lies in one row of a prompt.

    Attributes:
        row: row of the batch.
        index: how many images come before it in that row.
        positions: token index, in this forward, of every patch: grid after grid, row-major within a grid; on the CPU.
            Separators such as newline tokens are left out.
        grids: the rasters, in the order of `positions`; tiles, thumbnails and video frames are grids of their own.
        text: token index of the text that comes after it, which can see it. A family leaves it to the prefill.
        before: token index of all that comes before it in its row, padding left out; likewise. None where some of that
            is in a cache from before.
    """

    row: int
    index: int
    positions: Int[Tensor, "patches"]
    grids: tuple[PatchGrid, ...]
    text: Int[Tensor, "text"] = field(default_factory=_no_tokens)
    before: Int[Tensor, "before"] | None = None


class ModelFamily(ABC):
    """One family of vision-language models. Subclasses are stateless; one file each."""

    name: ClassVar[str]
    summary: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    """Values of `config.model_type` that belong to the family."""
    edit_layers: ClassVar[range]
    """Blocks whose output SCR edits, as published for models of 24 blocks and more; see `edit_layers_of`."""
    attention_layers: ClassVar[range] = range(8, 17)
    """Blocks whose attention SCR averages, likewise."""
    state_module: ClassVar[str | None] = None
    """What a block of the family may have in place of `self_attn`: a module that carries a state on, and has no maps
    to read."""
    whole_picture: ClassVar[int | None] = None
    """Of the grids of an image that has several, the one that shows all of it, as an index; None if none does."""

    features: ClassVar[str] = "pooler_output"
    """Where the vision tower's outputs hold what becomes the image's tokens."""
    first_position: ClassVar[int] = 0
    """What `generate` adds to position ids before each forward, and whoever runs one in its place has to add."""

    def edit_layers_of(self, model: PreTrainedModel) -> range:
        """`edit_layers`, where members of the family have published ranges of their own."""
        return self.edit_layers

    def decoder(self, model: PreTrainedModel) -> nn.Module:
        """The text decoder, whose `inputs_embeds` hold the image features: see `decoder_inputs`."""
        return model.get_decoder()

    def decoder_inputs(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Keyword arguments of the decoder, by which one may call it twice, with the image features in `inputs_embeds`.

        They are that already wherever the decoder is a module of its own.
        """
        return inputs

    def layers(self, model: PreTrainedModel) -> nn.ModuleList:
        """The decoder blocks, in order."""
        decoder: Any = self.decoder(model)
        return decoder.layers

    def attention_modules(self, model: PreTrainedModel) -> dict[int, nn.Module]:
        """Block → its self-attention, of the blocks that have maps to read: all, but in a family with `state_module`.

        Raises:
            UnsupportedModelError: if another block has no `self_attn` with a config, where attention could be read.
        """
        found = {}
        for index, layer in enumerate(self.layers(model)):
            attention = getattr(layer, "self_attn", None)
            if attention is not None and hasattr(attention, "config"):
                found[index] = attention
            elif self.state_module is None or not hasattr(layer, self.state_module):
                raise UnsupportedModelError(
                    f"decoder block without readable attention: got {type(layer).__name__} at block {index}; "
                    "expected blocks with a `self_attn` module. Use a model whose every block has self-attention."
                )
        return found

    def mlp(self, layer: nn.Module) -> nn.Module:
        """The module of a decoder block whose output is its MLP's.

        Raises:
            UnsupportedModelError: if the block has none of that name.
        """
        mlp = getattr(layer, "mlp", None)
        if not isinstance(mlp, nn.Module):
            raise UnsupportedModelError(
                f"decoder block without an MLP to act on: got {type(layer).__name__} with "
                f"{[name for name, _ in layer.named_children()]}; expected `mlp` among them. Use a dense decoder, such "
                "as Llama's or Qwen2's."
            )
        return mlp

    def attention_update(self, layer: nn.Module) -> nn.Module:
        """The module of a decoder block whose output is added to the residual stream as attention's part.

        Raises:
            UnsupportedModelError: for a block of another build, such as one with norms behind its attention.
        """
        parts = {name for name, part in layer.named_children() if not isinstance(part, nn.Dropout)}
        multiplied = getattr(layer, "residual_multiplier", 1) != 1
        if parts != _BLOCK or multiplied:
            raise UnsupportedModelError(
                f"decoder block of another build: got {type(layer).__name__} with {sorted(parts)}"
                f"{' and a residual_multiplier' * multiplied}; expected {sorted(_BLOCK)}, so that what attention puts "
                "out is what is added. Use a decoder of Llama's or Qwen2's build."
            )
        return cast(nn.Module, layer.self_attn)

    def final_norm(self, model: PreTrainedModel) -> nn.Module:
        """The norm between the last decoder block and the language head.

        Raises:
            UnsupportedModelError: if the decoder has none of that name.
        """
        decoder = self.decoder(model)
        norm = getattr(decoder, "norm", None)
        if not isinstance(norm, nn.Module):
            raise UnsupportedModelError(
                f"decoder without a final norm: got {type(decoder).__name__}; expected a module `norm`. Use a decoder "
                "of Llama's or Qwen2's build."
            )
        return norm

    def vision_layers(self, model: PreTrainedModel) -> list[nn.Module]:
        """The blocks of the vision tower, in order; each has an `mlp`.

        Raises:
            UnsupportedModelError: if it is not built of such blocks.
        """
        decoder = set(self.decoder(model).modules())
        for module in model.base_model.modules():
            if isinstance(module, nn.ModuleList) and len(module) and module not in decoder:
                blocks = list(module)
                if all(isinstance(getattr(block, "mlp", None), nn.Module) for block in blocks):
                    return blocks
        raise UnsupportedModelError(
            f"vision tower without blocks to act on: got {type(model).__name__}; expected transformer blocks with an "
            "`mlp`. Leave what acts on the vision tower out."
        )

    def blocks_added_to(self, model: PreTrainedModel) -> range:
        """Blocks to whose output the decoder itself then adds features of the image; edits come after that."""
        return range(0)

    def check(self, model: PreTrainedModel) -> None:
        """Raise UnsupportedModelError if this member of the family cannot be patched."""
        self.attention_modules(model)

    def visual_token_ids(self, config: PreTrainedConfig) -> dict[str, int]:
        """Modality → the token id that stands for its patches in a prompt."""
        return {"image": config.image_token_id}

    def frame_tokens(
        self, model: PreTrainedModel, visual: Bool[Tensor, "batch seq"], ids: Int[Tensor, "batch seq"]
    ) -> Bool[Tensor, "batch seq"]:
        """Which tokens the processor writes around and between the image tokens, as far as the config tells.

        On the CPU.

        Args:
            model: the model.
            visual: which tokens are image tokens; on the CPU.
            ids: of the prompt; on the CPU.
        """
        return torch.zeros_like(visual)

    @abstractmethod
    def images(
        self, model: PreTrainedModel, visual: Bool[Tensor, "batch seq"], decoder_inputs: Mapping[str, Any]
    ) -> list[ImagePatches]:
        """Find the images of a prefill, row after row, in prompt order.

        Args:
            model: the model.
            visual: which tokens of this forward are image tokens; on the CPU.
            decoder_inputs: what `decoder_inputs` returned: `inputs_embeds`, `position_ids`, ...

        Raises:
            PromptLayoutError: if the image tokens do not fit the grids; nothing is guessed.
        """

    def map_pixels(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, Any],
        change: Callable[[Float[Tensor, "tiles 3 height width"]], Float[Tensor, "tiles 3 height width"]],
        name: str = "pixel_values",
    ) -> Tensor:
        """`inputs[name]`, in the layout that the processor gave it, with what `change` makes of each image.

        `change` is called once per image, in the order of the prompt, and never sees padding, which stays as it is.
        Where pixels do not tell which tiles belong together, each tile counts as an image.

        Args:
            model: the model.
            inputs: what the processor returned.
            change: gets the tiles, or frames, of one image; returns as many of the same size. Must not write into them.
            name: `pixel_values`, or `pixel_values_videos`.

        Returns:
            A new tensor of the same shape, dtype and device.

        Raises:
            PromptLayoutError: for pixels in another layout.
        """
        pixels = inputs[name]
        if pixels.ndim != 4:
            raise pixel_misfit(name, pixels, "(images, 3, height, width)")
        return torch.cat([change(image).to(pixels) for image in pixels.split(1)]) if len(pixels) else pixels.clone()

    def salience(
        self, model: PreTrainedModel, tiles: Float[Tensor, "tiles 3 height width"]
    ) -> Float[Tensor, "tiles rows columns"]:
        """How much the vision tower makes of each patch of a tile, as `map_pixels` shows it; see `tower_salience`.

        Each tile is seen for itself, and no number is below 0.
        """
        tower: Any = model.base_model.vision_tower
        return tower_salience(tower, tower.encoder.layers[-1].self_attn, tiles)

    def pixel_images(self, image: ImagePatches, modality: str) -> int:
        """As how many images `map_pixels` shows one of the prompt: one per tile, where each tile counts as an image."""
        return len(image.grids) if modality == "image" else 1

    def map_features(
        self,
        model: PreTrainedModel,
        features: Tensor | Sequence[Tensor],
        change: Callable[[Float[Tensor, "tokens dim"]], Float[Tensor, "tokens dim"]],
    ) -> Tensor | Sequence[Tensor]:
        """The `features` that `get_image_features` or `get_video_features` returns, each image's changed.

        `change` is called once per image, in the same order as by `map_pixels`; what the features hold beside an
        image's own tokens stays as it is.

        Args:
            model: the model.
            features: one part per image.
            change: gets the tokens of one image; returns as many.

        Returns:
            New features in the same container.
        """
        changed = [change(part).to(part) for part in features]
        return torch.stack(changed) if isinstance(features, Tensor) else type(features)(changed)  # type: ignore[call-arg]


def pixel_misfit(name: str, pixels: Tensor, expected: str) -> PromptLayoutError:
    """The error about pixels that are not laid out as the family's processor does."""
    return PromptLayoutError(
        f"{name} are not in the family's layout: got shape {tuple(pixels.shape)}; expected {expected}. "
        "Pass what the model's own processor returns."
    )


def visual_runs(visual: Bool[Tensor, "seq"]) -> list[Int[Tensor, "tokens"]]:
    """Positions of image tokens, cut wherever another token stands in between."""
    positions = visual.nonzero().flatten()
    if not len(positions):
        return []
    return list(positions.tensor_split((positions.diff() != 1).nonzero().flatten() + 1))


def runs_by_image(
    visual: Bool[Tensor, "seq"], tokens: Float[Tensor, "seq dim"] | Int[Tensor, "seq 1"]
) -> list[list[Int[Tensor, "tokens"]]]:
    """`visual_runs` grouped by image, where one token ends each image and never follows another of its runs.

    It need not be known: it is what follows the last run.

    Args:
        visual: which tokens of a row are image tokens; on the CPU.
        tokens: their embeddings, or ids.

    Raises:
        PromptLayoutError: if nothing follows the last run.
    """
    images: list[list[Tensor]] = []
    runs = visual_runs(visual)
    after = [tokens[int(run[-1]) + 1 :][:1] for run in runs]
    if after and not len(after[-1]):
        raise PromptLayoutError(
            f"a prompt cut off inside an image: got an image token at its end, {len(tokens) - 1}; expected the token "
            "that ends an image after it. Pass the whole of what the model's own processor returns."
        )
    ended = True
    for run, token in zip(runs, after, strict=True):
        images = [*images, [run]] if ended else [*images[:-1], [*images[-1], run]]
        ended = bool((token == after[-1]).all())
    return images


def beside_runs(
    visual: Bool[Tensor, "batch seq"], ids: Int[Tensor, "batch seq"], before: int | None, after: int | None
) -> Bool[Tensor, "batch seq"]:
    """Which tokens are `before` and stand right before an image token, or `after` and right after one.

    Args:
        visual: which tokens are image tokens; on the CPU.
        ids: of the prompt; on the CPU.
        before: an id; None: none.
        after: likewise.
    """
    found = torch.zeros_like(visual)
    if before is not None:
        found[:, :-1] |= (ids[:, :-1] == before) & visual[:, 1:]
    if after is not None:
        found[:, 1:] |= (ids[:, 1:] == after) & visual[:, :-1]
    return found


def square_images(visual: Bool[Tensor, "batch seq"], side: int, class_tokens: int = 0) -> list[ImagePatches]:
    """Cut each row's image tokens into images of one square grid.

    Args:
        visual: which tokens are image tokens; on the CPU.
        side: of the square, in patches.
        class_tokens: how many tokens stand before each square that are no patches.

    Raises:
        PromptLayoutError: if they are no multiple of an image.
    """
    per_image = side * side + class_tokens
    found = []
    for row, row_visual in enumerate(visual):
        positions = row_visual.nonzero().flatten()
        if len(positions) % per_image:
            raise PromptLayoutError(
                f"image tokens of row {row} do not fit the patch grid: got {len(positions)}; expected a "
                f"multiple of {per_image} ({side} × {side} patches per image). Build the prompt with the model's "
                "own processor."
            )
        for index, image in enumerate(positions.split(per_image) if len(positions) else ()):
            found.append(ImagePatches(row, index, image[class_tokens:], (PatchGrid(side, side),)))
    return found
