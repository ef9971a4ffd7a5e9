"""Let a model with methods on it answer a batch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..calibration import end_tokens
from ..patching.patch import Patch

MOST_TOKENS = 512
"""Where a text is cut off unless the caller says otherwise: the published protocol of CHAIR."""

_LENGTHS = ("max_new_tokens", "max_length", "generation_config")


def answer_batch(
    model: Any, processor: Any, inputs: Mapping[str, Any], patches: Sequence[Patch], generate: Mapping[str, Any]
) -> tuple[list[list[int]], float]:
    """Generate, with the methods on the model meanwhile.

    Args:
        model: the model.
        processor: its processor.
        inputs: of the prompts, padded on the left.
        patches: what is put on, the outermost first.
        generate: arguments of `generate`.

    Returns:
        The token ids of each answer, without its end and what follows, and the milliseconds per answer.
    """
    options = {"pad_token_id": processor.tokenizer.pad_token_id, **generate, "return_dict_in_generate": False}
    if not any(name in options for name in _LENGTHS):
        options["max_new_tokens"] = MOST_TOKENS
    start = inputs["input_ids"].shape[1]
    with contextlib.ExitStack() as stack, torch.inference_mode():
        for one in patches:
            stack.enter_context(one)
        began = time.perf_counter()
        rows = model.generate(**inputs, **options)[:, start:].tolist()  # which waits for the device
        milliseconds = 1000 * (time.perf_counter() - began) / len(rows)
    ends = set(end_tokens(model, generate))
    return [_until_end(row, ends) for row in rows], milliseconds


def _until_end(row: list[int], ends: set[int]) -> list[int]:
    return row[: next((index for index, token in enumerate(row) if token in ends), len(row))]
