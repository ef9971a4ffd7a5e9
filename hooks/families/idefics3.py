"""Idefics3 and SmolVLM: every tile is a square grid and a run of its own, with marker tokens in between."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import PromptLayoutError
from ..towers import tower_salience
from .base import ImagePatches, ModelFamily, PatchGrid, pixel_misfit, visual_runs

_NOT_ZERO = 2.0**-14  # the least number that is normal in every dtype


class Idefics3(ModelFamily):
    """`Idefics3ForConditionalGeneration`, `SmolVLMForConditionalGeneration`: `HuggingFaceTB/SmolVLM2-2.2B-Instruct`."""

    name: ClassVar[str] = "idefics3"
    summary: ClassVar[str] = "Idefics3, SmolVLM, SmolVLM2: one grid per tile, the overview its own"
    model_types: ClassVar[tuple[str, ...]] = ("idefics3", "smolvlm")
    edit_layers: ClassVar[range] = range(0, 12)  # LLaVA-1.5's; the paper has no Idefics3
    whole_picture: ClassVar[int | None] = -1

    def frame_tokens(
        self, model: PreTrainedModel, visual: Bool[Tensor, "batch seq"], ids: Int[Tensor, "batch seq"]
    ) -> Bool[Tensor, "batch seq"]:
        """All between the tiles of an image; the fake token and the marker before it, and the fake token after it.

        The fake token is told by standing in both places; see `ModelFamily.frame_tokens`.
        """
        framing = torch.zeros_like(visual)
        for row, tokens in enumerate(ids):
            for tiles in _images(visual_runs(visual[row]), tokens[:, None]):
                first, after = int(tiles[0][0]), int(tiles[-1][-1]) + 1
                framing[row, first:after] = True
                if first >= 2 and (tokens[after : after + 1] == tokens[first - 2]).any():
                    framing[row, [first - 2, first - 1, after]] = True
        return framing & ~visual

    def images(
        self, model: PreTrainedModel, visual: Bool[Tensor, "batch seq"], decoder_inputs: Mapping[str, Any]
    ) -> list[ImagePatches]:
        """Join the runs of each image's tiles. See `ModelFamily.images`."""
        side = _side(model)
        embeds, found = decoder_inputs["inputs_embeds"].detach(), []
        for row, row_visual in enumerate(visual):
            runs = visual_runs(row_visual)
            for run in runs:
                if len(run) % side**2:
                    raise PromptLayoutError(
                        f"image tokens of row {row} do not fit the tiles: got a run of {len(run)}; expected a multiple "
                        f"of {side**2} ({side} × {side} per tile). Build the prompt with the model's own processor."
                    )
            for index, tiles in enumerate(_images(runs, embeds[row])):
                positions = torch.cat(tiles)
                found.append(
                    ImagePatches(row, index, positions, (PatchGrid(side, side),) * (len(positions) // side**2))
                )
        return found

    def map_pixels(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, Any],
        change: Callable[[Float[Tensor, "tiles 3 height width"]], Float[Tensor, "tiles 3 height width"]],
        name: str = "pixel_values",
    ) -> Tensor:
        """Each tile is an image, without what `pixel_attention_mask` pads. See `ModelFamily.map_pixels`.

        transformers takes a tile that is 0 throughout for padding and drops it. So such tiles are left alone, and one
        that `change` makes so keeps one pixel a little above 0.
        """
        pixels, mask = inputs[name], inputs.get("pixel_attention_mask")
        if pixels.ndim != 5:
            raise pixel_misfit(name, pixels, "(rows, tiles, 3, height, width)")
        changed = pixels.clone()
        for row, index in (pixels != 0).flatten(2).any(dim=-1).nonzero().tolist():
            tile = changed[row, index]
            if mask is not None:  # the picture is at the top left
                tile = tile[:, : int(mask[row, index].any(dim=1).sum()), : int(mask[row, index].any(dim=0).sum())]
            tile.copy_(change(tile[None])[0])
            if not changed[row, index].any():
                changed[row, index, 0, 0, 0] = _NOT_ZERO
        return changed

    def map_features(
        self,
        model: PreTrainedModel,
        features: Tensor | Sequence[Tensor],
        change: Callable[[Float[Tensor, "tokens dim"]], Float[Tensor, "tokens dim"]],
    ) -> Tensor | Sequence[Tensor]:
        """Part each row's features into tiles. See `ModelFamily.map_features`."""

        def change_tiles(part: Tensor) -> Tensor:
            return torch.cat([change(tile) for tile in part.split(_side(model) ** 2)]) if len(part) else part

        return super().map_features(model, features, change_tiles)

    def salience(
        self, model: PreTrainedModel, tiles: Float[Tensor, "tiles 3 height width"]
    ) -> Float[Tensor, "tiles rows columns"]:
        """See `ModelFamily.salience`."""
        tower: Any = model.base_model.vision_model
        return tower_salience(tower, tower.encoder.layers[-1].self_attn, tiles)


def _side(model: PreTrainedModel) -> int:
    """Of a tile, in tokens."""
    config: Any = model.config
    return config.vision_config.image_size // config.vision_config.patch_size // config.scale_factor


def _images(runs: list[Tensor], tokens: Float[Tensor, "seq dim"] | Int[Tensor, "seq 1"]) -> list[list[Tensor]]:
    """Runs grouped by image.

    One fake token opens each tile, one more closes an image: so two between runs part images. It is told by its
    embedding where ids are not given. It stands in every gap between runs, and after the last one too, unless
    the prompt was cut off there: then it is the first token that every gap has, since newlines follow but some tiles.
    """
    images = [[run] for run in runs[:1]]
    gaps = [tokens[int(before[-1]) + 1 : int(after[0])] for before, after in itertools.pairwise(runs)]
    after_last = tokens[int(runs[-1][-1]) + 1 :][:1] if runs else tokens[:0]
    candidates = torch.cat([after_last, *gaps[:1]])
    mark = next((token for token in candidates if all(_count(token, gap) for gap in gaps)), None)
    for gap, run in zip(gaps, runs[1:], strict=True):
        if mark is not None and _count(mark, gap) > 1:
            images.append([run])
        else:
            images[-1].append(run)
    return images


def _count(token: Tensor, tokens: Tensor) -> int:
    return int((tokens == token).all(dim=-1).sum())
