"""Load a checkpoint, and nothing but a checkpoint: all of its weights, none of its code.

transformers fills what a checkpoint lacks with random numbers and a warning, asks standard input whether it may run a
repository's Python files, and reads pickles, which run code too. Every loading of this project goes through here.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedModel

from ..errors import ModelLoadError, SCRError
from .offloading import weights_at_hand


def load_config(location: str, *, name: str | None = None, **options: Any) -> Any:
    """A checkpoint's configuration.

    Args:
        location: what `from_pretrained` takes: a folder or a hub id.
        name: what messages call it; the location by default.
        options: of `from_pretrained`, such as `revision`.

    Raises:
        ModelLoadError: if it cannot be read, or needs code of its own.
    """
    with _loading(name or location, "a configuration that AutoConfig can load"):
        return AutoConfig.from_pretrained(location, **options, trust_remote_code=False)


def load_processor(location: str, *, name: str | None = None, **options: Any) -> Any:
    """A checkpoint's processor, whose tokenizer pads on the left. Arguments: see `load_config`.

    Raises:
        ModelLoadError: if it cannot be read, needs code of its own, or has no tokenizer.
    """
    name = name or location
    with _loading(name, "a checkpoint that AutoProcessor can load"):
        processor = AutoProcessor.from_pretrained(location, **options, trust_remote_code=False)
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None:
        raise ModelLoadError(
            f"no processor for text and images: got {type(processor).__name__} for {name!r}; expected one with "
            "a tokenizer. Give a checkpoint of a vision-language model."
        )
    # Generation continues at the right end of every row.
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return processor


def load_weights(
    location: str, *, dtype: torch.dtype | Literal["auto"], name: str | None = None, **options: Any
) -> PreTrainedModel:
    """A checkpoint's model in evaluation mode, with every weight from its safetensors.

    Arguments: see `load_config`; the dtype "auto" is that of the configuration or, where it has none, of the weights.

    Raises:
        ModelLoadError: if it cannot be loaded, needs code of its own or is stored as pickles; if weights are missing,
            of another shape, or not finite.
    """
    name = name or location
    with _loading(name, "safetensors that AutoModelForImageTextToText can load"), _without_report():
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            location,
            dtype=dtype,
            **options,
            trust_remote_code=False,
            use_safetensors=True,
            # They are refused below, with their names; transformers would tell those to its log alone.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    model: PreTrainedModel = loaded[0]
    _check_complete(loaded[1], name)
    check_finite(model, name)
    return model.eval()


def check_finite(model: nn.Module, name: str) -> None:
    """Refuse weights that are not finite, offloaded ones included: whatever comes of them is no answer.

    Raises:
        ModelLoadError: naming the first.
    """
    for path, module in model.named_modules():
        with weights_at_hand(module):
            for key, weight in module.named_parameters(recurse=False):
                if not _is_finite(weight):
                    raise ModelLoadError(
                        f"weights that are not finite: got NaN or infinity in {path}.{key} of {name!r} as "
                        f"{str(weight.dtype).removeprefix('torch.')}; expected numbers. Download the checkpoint again, "
                        "or load it as bfloat16 or float32 if it was float16 that they do not fit into."
                    )


def _is_finite(weight: torch.Tensor) -> bool:
    # Packed weights (4 bits, 8 bits) are no numbers by themselves.
    if (
        weight.device.type == "meta"
        or not weight.is_floating_point()
        or weight.element_size() == 1
        or not weight.numel()
    ):
        return True
    low, high = weight.detach().aminmax()
    return bool(low.isfinite() & high.isfinite())


def _check_complete(report: dict[str, Any], name: str) -> None:
    missing, misshapen = sorted(report["missing_keys"]), sorted(report["mismatched_keys"])
    if missing:
        raise ModelLoadError(
            f"a checkpoint with missing weights: got none for {_some(missing)} in {name!r}; expected all, since random "
            "numbers would stand in for them. Download it again."
        )
    if misshapen:
        key, found, expected = misshapen[0]
        raise ModelLoadError(
            f"weights of another shape: got {key} of shape {tuple(found)}, and {len(misshapen) - 1} more, in {name!r}; "
            f"expected {tuple(expected)}, which its config.json says. Download it again."
        )


def _some(names: list[str]) -> str:
    rest = len(names) - 3
    return ", ".join(names[:3]) + (f" and {rest} more" if rest > 0 else "")


@contextlib.contextmanager
def _loading(name: str, expected: str) -> Iterator[None]:
    """Turn what transformers raises on a checkpoint it cannot load, which is anything, into one error of ours."""
    try:
        yield
    except (SCRError, MemoryError, torch.OutOfMemoryError):  # of the latter two nothing is wrong with the checkpoint
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise ModelLoadError(
            f"model cannot be loaded: got {name!r} ({type(error).__name__}: {said}); expected {expected}. "
            "Check the folder or the hub id."
        ) from error


@contextlib.contextmanager
def _without_report() -> Iterator[None]:
    """Without transformers' table of missing weights: what it has to say is said by an error."""
    logger = logging.getLogger("transformers.modeling_utils")

    def is_no_report(record: logging.LogRecord) -> bool:
        return record.funcName != "log_state_dict_report"

    logger.addFilter(is_no_report)
    try:
        yield
    finally:
        logger.removeFilter(is_no_report)
