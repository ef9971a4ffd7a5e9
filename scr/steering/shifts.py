"""Learn vectors from demonstrations: from false captions to true ones, from pictures to what is left under masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .._hooks import find_family, last_states, unwrap, vision_states
from ..adapters.encoding import encode_rows
from ..adapters.rows import Row
from ..errors import ConfigError, UnsupportedModelError
from ..perturb import PatchMask, perturb_inputs

# A prompt with its image and a caption; nothing is to be cut off.
_LONGEST = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """An image with one caption that is true and one that is not.

    Attributes:
        image: the picture's file.
        question: what a caption answers, without the model's own turn markers.
        clean: a true caption.
        hallucinated: the same with something in it that is not in the image.
    """

    image: Path
    question: str
    clean: str
    hallucinated: str


def principal_shift(shifts: Float[Tensor, "demonstrations blocks dim"], rank: int) -> Float[Tensor, "blocks dim"]:
    """The mean shift, as far as it lies within the shifts' first principal directions.

    Directions are about 0, since what all demonstrations share is what is looked for, and of all blocks together. At
    rank 1 this is the first of them, with the sign and the length that the mean has along it.

    Raises:
        ConfigError: for fewer demonstrations than directions.
    """
    if rank > len(shifts):
        raise ConfigError(
            f"rank out of range: got {rank} with {len(shifts)} demonstrations; expected no more than there are. "
            "Give more demonstrations."
        )
    flat = shifts.double().flatten(1)
    directions = torch.linalg.svd(flat, full_matrices=False).Vh[:rank]
    return (directions.T @ (directions @ flat.mean(dim=0))).reshape(shifts.shape[1:]).float()


def text_shifts(
    model: Any, processor: Any, demonstrations: Sequence[Demonstration]
) -> Iterator[Float[Tensor, "blocks dim"]]:
    """For each demonstration, after each block: state of the true caption's last token less the hallucinated one's."""
    model = unwrap(model)[0]
    for one in demonstrations:
        clean, hallucinated = (
            last_states(model, _inputs(model, processor, one, caption))[:, 0].float().cpu()
            for caption in (one.clean, one.hallucinated)
        )
        yield clean - hallucinated


def vision_shifts(
    model: Any, processor: Any, demonstrations: Sequence[Demonstration], mask: PatchMask, trials: int
) -> Iterator[Float[Tensor, "blocks dim"]]:
    """For each picture, after each block of the vision tower: the mean state of masked copies less the whole one's.

    Args:
        model: the model.
        processor: its processor.
        demonstrations: their captions have no part.
        mask: what each copy lacks; copy k is drawn with its seed plus k.
        trials: how many copies.
    """
    model = unwrap(model)[0]
    for one in demonstrations:
        inputs = _inputs(model, processor, one, one.clean)
        copies = (perturb_inputs(model, inputs, replace(mask, seed=mask.seed + copy)) for copy in range(trials))
        masked = torch.stack([vision_states(model, copy) for copy in copies]).mean(dim=0)
        yield (masked - vision_states(model, inputs)).cpu()


def visual_textual_vectors(
    model: Any, processor: Any, demonstrations: Sequence[Demonstration], mask: PatchMask, trials: int, rank: int
) -> dict[str, Float[Tensor, "blocks dim"]]:
    """VTI's vectors: "text" for the decoder's blocks, "vision" for those of the tower, where it has any.

    Args:
        model: a model of a supported family, with no method on it.
        processor: its processor, which pads on the left.
        demonstrations: at least `rank` of them.
        mask: what copies of a picture lack.
        trials: how many copies of each.
        rank: of `principal_shift`.

    Raises:
        ConfigError: for too few demonstrations, or an image or caption that the processor does not take.
    """
    vectors = {"text": principal_shift(torch.stack(list(text_shifts(model, processor, demonstrations))), rank)}
    try:
        find_family(model).vision_layers(unwrap(model)[0])
    except UnsupportedModelError:
        return vectors
    shifts = torch.stack(list(vision_shifts(model, processor, demonstrations, mask, trials)))
    return {**vectors, "vision": principal_shift(shifts, rank)}


def _inputs(model: Any, processor: Any, one: Demonstration, caption: str) -> dict[str, Any]:
    """Prompt, image and caption, without the end of the turn: the last token is the caption's."""
    row = Row(name=one.image.name, image=one.image, question=one.question, answer=caption)
    inputs = encode_rows(processor, [row], _LONGEST, model.device, model.dtype).inputs
    width = inputs["input_ids"].shape[1]
    return {
        name: value[:, :-1] if isinstance(value, Tensor) and value.shape == (1, width) else value
        for name, value in inputs.items()
    }
