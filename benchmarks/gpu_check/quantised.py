"""Plans of a trained model whose weights are in 4 or 8 bits, beside those of its float32, and what it holds."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from scr.errors import ConfigError, MissingPackageError

from .agreement import agreement, read
from .bench import Bench, Row, attempt
from .trained import TRAINED, trained

_KINDS: dict[str, Mapping[str, Any]] = {
    "4 bits, nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "4 bits, fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "8 bits": {"load_in_8bit": True},
}


def measure_quantised(bench: Bench) -> list[Row]:
    """A line for each quantisation of bitsandbytes, loaded through `from_pretrained` as a user would."""
    return [attempt({"weights": name}, functools.partial(_compared, bench, given)) for name, given in _KINDS.items()]


def _compared(bench: Bench, given: Mapping[str, Any]) -> Row:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingPackageError("no bitsandbytes: got none; expected it installed. pip install bitsandbytes")
    if not bench.on_gpu:
        raise ConfigError(
            f"quantised weights of {TRAINED}: got {bench.device}; expected a GPU, as bitsandbytes on a CPU takes no "
            "matrix whose width is not a multiple of 64. Run it on one."
        )
    exact, inputs = trained(bench)
    reference = read(exact, inputs)
    quantised, rounded = trained(
        bench,
        dtype=torch.bfloat16,
        device_map={"": str(bench.device)},
        quantization_config=BitsAndBytesConfig(**given, bnb_4bit_compute_dtype=torch.bfloat16),
    )
    share = quantised.get_memory_footprint() / exact.get_memory_footprint()
    return {f"memory of {TRAINED}'s float32 %": 100 * share, **agreement(read(quantised, rounded), reference)}
