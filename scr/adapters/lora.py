"""Low-rank layers in a model, and their exact undo: the one place where peft changes a model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from ..errors import AdapterLoadError, AlreadyPatchedError, MissingPackageError


@contextlib.contextmanager
def lora_layers(
    model: PreTrainedModel, config: Any, weights: Mapping[str, Tensor] | None = None, trainable: bool = False
) -> Iterator[Any]:
    """Low-rank layers in a model, for as long as the context lasts; then the model is what it was, to the bit.

    Args:
        model: the model.
        config: a `peft.LoraConfig`.
        weights: of the adapter, by their names in its file; None leaves the beginning: no change of any output.
        trainable: whether gradients reach the adapter. The model's own weights get none either way.

    Yields:
        The `peft.LoraModel`.

    Raises:
        AlreadyPatchedError: if an adapter is on the model already.
        AdapterLoadError: for weights that do not fill the layers.
    """
    peft = require_peft()
    if getattr(model, "peft_config", None):
        raise AlreadyPatchedError(
            "adapter already on this model: got a second one; expected at most one. "
            "Leave the first `with` (or call `remove()`) before."
        )
    gradients = {parameter: parameter.requires_grad for parameter in model.parameters()}
    modes = {module: module.training for module in model.modules()}
    tuner = peft.LoraModel(model, config, "default")
    try:
        layers = [module for module in model.modules() if isinstance(module, peft.tuners.lora.LoraLayer)]
        for layer in layers:
            layer.train(trainable)
        for parameter in model.parameters():
            parameter.requires_grad_(trainable and parameter not in gradients)
        if weights is not None:
            bare = {name.removeprefix("base_model.model."): value for name, value in weights.items()}
            result = peft.set_peft_model_state_dict(model, bare, "default")
            lacking = [name for name in result.missing_keys if "lora_" in name]
            if lacking or result.unexpected_keys:
                raise AdapterLoadError(
                    f"weights do not fill the adapter: got nothing for {lacking[:3]} and {result.unexpected_keys[:3]} "
                    "too much; expected one pair for each targeted layer. Download or train it again."
                )
        yield tuner
    finally:
        tuner.unload()
        for parameter, flag in gradients.items():
            parameter.requires_grad_(flag)
        for module, mode in modes.items():
            module.training = mode


def adapter_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """The weights of the adapter on a model, by their names in a file of peft's; on the CPU."""
    # By default peft asks the hub whether the vocabulary has grown.
    state = require_peft().get_peft_model_state_dict(model, adapter_name="default", save_embedding_layers=False)
    return {f"base_model.model.{name}": value.detach().cpu().contiguous() for name, value in state.items()}


def require_peft() -> Any:
    """The peft package.

    Raises:
        MissingPackageError: if it is not installed, with the line that installs it.
    """
    try:
        import peft
    except ImportError as error:
        raise MissingPackageError(
            "adapters need peft: got none installed; expected peft ≥ 0.17. pip install 'scr-vlm[adapters]', "
            "or pip install peft"
        ) from error
    return peft
