"""What a model gets for a batch of prompts, each with an image or all without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from ..adapters import format_prompt


def encode_prompts(
    model: Any, processor: Any, prompts: Sequence[str], images: Sequence[Image.Image] | None
) -> dict[str, Any]:
    """The prompts in the model's own turns, padded on the left, on the model's device.

    Args:
        model: of which device and number format are read.
        processor: the model's.
        prompts: texts, without the model's turn markers.
        images: one for each prompt; None for prompts without.

    Returns:
        What `generate` takes, `input_ids` of shape (prompts, length).
    """
    texts = [format_prompt(processor, prompt, with_image=images is not None) for prompt in prompts]
    begin = processor.tokenizer.bos_token
    batch = processor(
        text=texts,
        images=None if images is None else [[image] for image in images],
        padding=True,
        padding_side="left",  # generation continues at the right end of every row
        return_tensors="pt",
        # A template that writes the begin token itself must not get a second one.
        add_special_tokens=not (begin and texts[0].startswith(begin)),
    )
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        if isinstance(value, Tensor)
        else value
        for name, value in batch.items()
    }
