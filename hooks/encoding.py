"""Run the vision tower by itself, as `generate` does, so that its features can be used more than once."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}
"""By which argument a processor gives images, and videos."""


@torch.no_grad()
def encode_images(
    model: PreTrainedModel, inputs: Mapping[str, Any], known: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The inputs of a prompt, with the vision tower's outputs in place of the pixels.

    Args:
        model: the model; its tower runs once for images and once for videos.
        inputs: the processor's.
        known: the outputs, if the tower has run already; then it does not run.

    Returns:
        A new mapping that `forward` and `generate` take: without pixels, with
        `mm_encoder_outputs`, whose `pooler_output` of "image" or "video" are the projected features.
    """
    encoded: dict[str, Any] = {}
    for modality, pixels in PIXELS.items():
        encode: Any = getattr(model.base_model, f"get_{modality}_features", None)
        if encode is None or inputs.get(pixels) is None:
            continue
        names = [name for name in inspect.signature(encode).parameters if name in inputs and name != "kwargs"]
        if known is None:
            encoded[modality] = encode(**{name: inputs[name] for name in names}, return_dict=True)
    kept = {name: value for name, value in inputs.items() if name not in PIXELS.values()}
    return {**kept, "mm_encoder_outputs": encoded if known is None else known}
