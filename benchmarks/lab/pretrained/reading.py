"""A GGUF file as a checkpoint that loads like one from a hub: weights in bfloat16, tokenizer and chat template."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["save_decoder"]

# torch is imported below, in the function that needs it, so that --help answers at once.


def save_decoder(file: Path, folder: Path) -> None:
    """Read a GGUF file by transformers' own reader and save it.

    The reader undoes what llama.cpp did to the rows of the query and key projections.

    Args:
        file: The GGUF file.
        folder: Where to write.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place, name = str(file.parent), file.name
    with _quiet():
        model: Any = AutoModelForCausalLM.from_pretrained(place, gguf_file=name, dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=name)
        # The weights are plain numbers now; both would say otherwise to whoever loads or saves them.
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.hf_quantizer = None
        model.config._name_or_path = ""
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes for the owner alone


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars, and its notes on a file of another format."""
    from transformers.utils import logging as transformers_logging

    on, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if on:
            transformers_logging.enable_progress_bar()
