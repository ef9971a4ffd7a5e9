"""Which tokens of a prefill are text that looks back at an image, and with what weight."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..encoding import PIXELS
from ..families import ImagePatches, ModelFamily, find_family
from .cache import first_key_column, mask_layer, past_length
from .masks import sees_itself


class Queries(NamedTuple):
    """Query rows of the diagnostic: `queries` (batch, queries) token indices, `weights` (batch, images, queries)."""

    queries: Int[Tensor, "batch queries"]
    weights: Float[Tensor, "batch images queries"]


def visual_inputs(inputs: Mapping[str, Any]) -> dict[str, object]:
    """What a forward carries of each modality: pixels, or features that `generate` has encoded beforehand.

    Tokens alone do not count: a model may generate one, and text may hold one of a modality that did not come.
    """
    encoded = inputs.get("mm_encoder_outputs")
    features = encoded if isinstance(encoded, Mapping) else {"image": encoded}
    found = {}
    for modality, name in PIXELS.items():
        pixels = inputs.get(name)
        if (value := pixels if pixels is not None else features.get(modality)) is not None:
            found[modality] = value
    return found


def visual_input(inputs: Mapping[str, Any]) -> object | None:
    """The first of `visual_inputs`, or None. The object's identity tells one image from another."""
    return next(iter(visual_inputs(inputs).values()), None)


def visual_tokens(family: ModelFamily, model: Any, inputs: Mapping[str, Any]) -> dict[str, Bool[Tensor, "batch seq"]]:
    """Which tokens of a forward stand for each modality that came; on the CPU.

    Told by their embedding where no ids are given.
    """
    came, known = visual_inputs(inputs), family.visual_token_ids(model.config)
    tokens = inputs.get("input_ids")
    if tokens is not None:
        return {modality: tokens.cpu() == token for modality, token in known.items() if modality in came}
    embeds, embed = inputs["inputs_embeds"], model.get_input_embeddings()
    placeholders = {name: embed(torch.tensor(token, device=embeds.device)) for name, token in known.items()}
    return {name: (embeds == vector).all(-1).cpu() for name, vector in placeholders.items() if name in came}


def any_visual(family: ModelFamily, model: Any, inputs: Mapping[str, Any]) -> Bool[Tensor, "batch seq"]:
    """Which tokens of a forward stand for an image or a video that came; on the CPU."""
    prompt = inputs["input_ids"] if inputs.get("input_ids") is not None else inputs["inputs_embeds"]
    nothing = torch.zeros(prompt.shape[:2], dtype=torch.bool, device="cpu")
    return functools.reduce(torch.logical_or, visual_tokens(family, model, inputs).values(), nothing)


def image_tokens(model: Any, inputs: Mapping[str, Any]) -> Bool[Tensor, "rows prompt"]:
    """Which tokens of prompts stand for an image or a video; on the CPU.

    Args:
        model: a model of a supported family.
        inputs: with `input_ids` or `inputs_embeds`.
    """
    return any_visual(find_family(model), model, inputs)


def rows_with_images(model: Any, inputs: Mapping[str, Any]) -> Bool[Tensor, "rows"]:
    """Which prompts of a batch hold an image; on the CPU.

    Args:
        model: a model of a supported family.
        inputs: with `input_ids` or `inputs_embeds`.
    """
    if inputs.get("input_ids") is None and inputs.get("inputs_embeds") is not None:
        return torch.ones(len(inputs["inputs_embeds"]), dtype=torch.bool, device="cpu")
    return image_tokens(model, inputs).any(dim=1)


def real_tokens(inputs: Mapping[str, Any], batch: int, seq: int) -> Bool[Tensor, "batch seq"]:
    """Which tokens of a forward are not padding, from an attention mask in any of transformers' forms; on the CPU."""
    mask, cache = inputs.get("attention_mask"), inputs.get("past_key_values")
    if isinstance(mask, Mapping):
        mask = mask.get("full_attention", next(iter(mask.values())))
    if mask is None:
        return torch.ones(batch, seq, dtype=torch.bool, device="cpu")
    if isinstance(mask, Tensor) and mask.ndim == 2:
        # What is prepared for sliding layers has lost its oldest columns, and ends with this forward's tokens.
        start = min(past_length(cache), mask.shape[1] - seq)
        return mask[:, start : start + seq].bool().cpu()
    first = first_key_column(cache, mask_layer(cache), seq)
    return sees_itself(mask, batch, seq, first).cpu()


def surrounded(
    images: Sequence[ImagePatches], text: Bool[Tensor, "batch seq"], real: Bool[Tensor, "batch seq"], past: int = 0
) -> list[ImagePatches]:
    """The images, each with what comes before it in its row, and the text that comes after it.

    Args:
        images: as a family finds them.
        text: tokens that are neither padding nor image.
        real: tokens that are no padding.
        past: tokens that came in earlier forwards.
    """
    found = []
    for image in images:
        first, end = int(image.positions.min()), int(image.positions.max()) + 1
        before = None if past else real[image.row, :first].nonzero().flatten()
        found.append(replace(image, before=before, text=text[image.row, end:].nonzero().flatten() + end))
    return found


def text_queries(images: Sequence[ImagePatches], batch: int, seq: int) -> Queries:
    """For every image the text tokens that come after it, each with weight 1 / their number.

    Args:
        images: the images of the batch, `surrounded`; an image without text after it gets weights of 0.
        batch: rows of the forward.
        seq: tokens of each.
    """
    return _queries(images, [image.text for image in images], batch, seq)


def image_queries(images: Sequence[ImagePatches], batch: int, seq: int) -> Queries:
    """For every image its own last row of patches, which sees all others and nothing that comes after the image.

    Arguments: see `text_queries`.
    """
    return _queries(images, [image.positions[-image.grids[-1].width :] for image in images], batch, seq)


def _queries(images: Sequence[ImagePatches], tokens: Sequence[Tensor], batch: int, seq: int) -> Queries:
    targets = 1 + max(image.index for image in images)
    asking = torch.zeros(batch, targets, seq, dtype=torch.bool, device="cpu")
    for image, own in zip(images, tokens, strict=True):
        asking[image.row, image.index, own] = True
    used = asking.any(dim=1)
    length = max(1, int(used.sum(dim=1).max()))
    # A stable sort puts each row's queries first, in order. What fills a short row up has weight 0, but must not be a
    # padding token, whose attention may be NaN: the row's first query does.
    queries = torch.argsort((~used).int(), dim=1, stable=True)[:, :length]
    filled_up = torch.arange(length, device="cpu") >= used.sum(dim=1, keepdim=True)
    filler = torch.where(used.any(dim=1), queries[:, 0], seq - 1)
    queries = torch.where(filled_up, filler[:, None], queries)
    picked = asking.gather(2, queries[:, None].expand(-1, targets, -1)) & ~filled_up[:, None]
    weights = picked.float() / picked.sum(dim=2, keepdim=True).clamp(min=1)
    return Queries(queries, weights)
