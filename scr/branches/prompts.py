"""The words that another run of a prompt sees: without the images, or with an instruction after them.

>>> scr.patch(model, "m3id")  # contrasts with `without_images`

What comes out is padded on the left, as `generate` wants it, and a row is made as it would be alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from .._hooks import PIXELS, find_family, image_tokens, unwrap
from ..errors import ConfigError

# Of each token one number; positions are made anew of them.
_PER_TOKEN = ("attention_mask", "mm_token_type_ids", "token_type_ids")
_POSITIONS = ("position_ids", "rope_deltas")
Columns = dict[str, Int[Tensor, "length"]]
"""One row of a prompt, each name's numbers token by token."""


def without_images(model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The same prompts without any token of an image or a video, and nothing that came for them.

    All text stays, the chat template with it. What frames an image goes too, where the model's family knows it
    (`ModelFamily.frame_tokens`); what cannot be told from a user's words stays.

    Args:
        model: a model of a supported family, or a wrapper around one.
        inputs: the processor's, with `input_ids`.

    Returns:
        A new mapping. Position ids are left out, since they have changed.

    Raises:
        ConfigError: for a prompt without ids, one masked by more than a row of numbers, or a row of images alone.
    """
    model = unwrap(model)[0]
    visual, frame = _images_and_frames(model, inputs)

    def without(row: int, columns: Columns, real: Bool[Tensor, "length"]) -> Columns:
        kept = real & ~(visual | frame)[row].to(real.device)
        if not kept.any():
            raise ConfigError(
                f"a prompt without words: got row {row}, of images alone; expected text beside them. Add the question."
            )
        return {name: values[kept] for name, values in columns.items()}

    left = {name: value for name, value in inputs.items() if name not in _of_images(model)}
    return _remade(model, left, without)


def with_instruction(model: Any, inputs: Mapping[str, Any], tokens: Sequence[int]) -> dict[str, Any]:
    """The same prompts with `tokens` after the last image of each row, where the usual templates have the question.

    They stand after what frames the image, where the model's family knows it. A row without an image gets none.

    Args:
        model: a model of a supported family, or a wrapper around one.
        inputs: the processor's, with `input_ids`.
        tokens: ids of the instruction.

    Returns:
        A new mapping with the same pixels. Position ids are left out, since they have changed.

    Raises:
        ConfigError: for a prompt without ids, or one masked by more than a row of numbers.
    """
    model = unwrap(model)[0]
    visual, frame = _images_and_frames(model, inputs)

    def instructed(row: int, columns: Columns, real: Bool[Tensor, "length"]) -> Columns:
        places = (visual | frame)[row].nonzero()
        cut = int(places.max()) + 1 if len(places) else 0
        added = [*tokens] if len(places) else []
        kept = real | visual[row].to(real.device)  # the pixels of a masked image come all the same
        new = {"input_ids": added, "attention_mask": [1] * len(added)}
        return {
            name: torch.cat([values[:cut][kept[:cut]], values.new_tensor(of_new), values[cut:][kept[cut:]]])
            for name, values in columns.items()
            for of_new in [new.get(name, [0] * len(added))]
        }

    return _remade(model, inputs, instructed)


def _images_and_frames(model: Any, inputs: Mapping[str, Any]) -> tuple[Bool[Tensor, "batch seq"], ...]:
    """Which tokens stand for images and videos, and which frame them; on the CPU."""
    if inputs.get("input_ids") is None or inputs.get("inputs_embeds") is not None:
        raise ConfigError(
            f"a prompt without ids, whose words cannot be changed: got inputs {sorted(inputs)}; expected `input_ids` "
            "and no `inputs_embeds`. Pass what the processor returns."
        )
    mask = inputs.get("attention_mask")
    if mask is not None and (not isinstance(mask, Tensor) or mask.shape != inputs["input_ids"].shape):
        got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ConfigError(
            f"a mask that is not one number per token: got {got}; expected {tuple(inputs['input_ids'].shape)}, as "
            "`input_ids`. Pass the attention mask that the processor returns."
        )
    family = find_family(model)
    visual = image_tokens(model, inputs)
    return visual, family.frame_tokens(model, visual, inputs["input_ids"].cpu())


def _of_images(model: Any) -> set[str]:
    """Names of inputs that come with images and videos."""
    encoders = [getattr(model.base_model, f"get_{modality}_features", None) for modality in PIXELS]
    read = {name for encode in encoders if encode is not None for name in inspect.signature(encode).parameters}
    return read | {*PIXELS.values(), "mm_encoder_outputs", "second_per_grid_ts"}


def _remade(
    model: Any, inputs: Mapping[str, Any], change: Callable[[int, Columns, Bool[Tensor, "length"]], Columns]
) -> dict[str, Any]:
    """The inputs with every row changed, and padded on the left."""
    ids = inputs["input_ids"]
    of_tokens = {"attention_mask": torch.ones_like(ids)}
    of_tokens |= {name: inputs[name] for name in _PER_TOKEN if inputs.get(name) is not None}
    of_tokens = {name: values.to(ids.device) for name, values in of_tokens.items()} | {"input_ids": ids}
    real = of_tokens["attention_mask"].bool()
    rows = [change(row, {name: of_tokens[name][row] for name in of_tokens}, real[row]) for row in range(len(ids))]
    # What stands in masked places is never seen.
    pad = getattr(getattr(model, "generation_config", None), "pad_token_id", None) or 0
    width = max(len(row["input_ids"]) for row in rows)
    remade = {
        name: torch.stack([_padded(row[name], width, pad if name == "input_ids" else 0) for row in rows])
        for name in of_tokens
    }
    return {**{name: value for name, value in inputs.items() if name not in _POSITIONS}, **remade}


def _padded(values: Int[Tensor, "length"], width: int, filler: int) -> Int[Tensor, "width"]:
    return torch.cat([values.new_full((width - len(values),), filler), values])
