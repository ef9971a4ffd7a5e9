"""An adapter's weights under the names that a model's layers have now, checked against them before they are put on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming

from .._hooks import UnsupportedModelError, find_family
from ..checkpoints.offloading import weights_at_hand
from ..errors import AdapterLoadError, ConfigError
from .configuration import matching
from .sources import AdapterSource

PREFIX = "base_model.model."
_KEY = re.compile(
    rf"{re.escape(PREFIX)}(?P<module>.+?)\.(?P<part>lora_[AB]\.weight|lora_embedding_[AB]|(base_layer\.)?weight)"
)


def read_weights(model: PreTrainedModel, source: AdapterSource, config: Any) -> dict[str, Tensor]:
    """The weights in an adapter's file, by the names that the model's layers have.

    A file may have the names of an older transformers, or those of the text model alone: then `config` is changed to
    name the same layers as they are called here. The copy of an embedding or head that peft saves beside LoRA on it is
    left out, since it is the model's own.

    Args:
        model: what the adapter is for.
        source: the adapter.
        config: its `peft.LoraConfig`.

    Raises:
        AdapterLoadError: if the file cannot be read, its ranks are not the configuration's, or it adds nothing.
        ConfigError: if it has layers that the model has not, or a vocabulary of its own.
    """
    try:
        stored = load_file(source.weights)
    except (SafetensorError, OSError, ValueError) as error:
        raise AdapterLoadError(
            f"adapter cannot be read: got {source.weights} ({error}); expected safetensors. Download or train it again."
        ) from error
    weights: dict[str, Tensor] = {}
    layers: dict[str, str] = {}
    ranks = {0}
    names = _Names(model)
    for key, value in stored.items():
        match = _KEY.fullmatch(key)
        name = None if match is None else names.find(match["module"])
        if match is None or name is None:
            raise _misfit(model, source, key, value, "no such layer")
        layer = names.layer(name)
        if match["part"].endswith("weight") and "lora" not in match["part"]:
            _check_copy(layer, value, source, name)
            continue
        _check_shape(model, source, key, value, match["part"], layer)
        rank = value.shape[0] if "A" in match["part"] else value.shape[1]
        if rank != (wanted := matching(config.rank_pattern, (match["module"], name), config.r)):
            raise AdapterLoadError(
                f"weights of another rank: got {key} of rank {rank} in {source.name!r}; expected {wanted}, which its "
                "configuration says. Download or train it again."
            )
        ranks.add(rank)
        if layers.setdefault(name, match["module"]) != match["module"]:
            raise _misfit(model, source, key, value, f"{layers[name]} for the same layer")
        weights[f"{PREFIX}{name}.{match['part']}"] = value
    _check_values(source, weights)
    if (largest := max((config.r, *config.rank_pattern.values()))) > max(ranks):
        # A layer that is targeted and not in the file would be made as large as that before it is missed.
        raise AdapterLoadError(
            f"weights of another rank: got at most {max(ranks)} in {source.name!r}; expected {largest}, which its "
            "configuration says. Download or train it again."
        )
    if any(old != new for new, old in layers.items()):
        _rename(config, layers)
    return weights


class _Names:
    """What a model's layers are called, and were called."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._layers = dict(model.named_modules())
        self._renamings: list[WeightRenaming] | None = None

    def find(self, name: str) -> str | None:
        """The name that a layer has here."""
        return next((one for one in self._candidates(name) if one in self._layers), None)

    def layer(self, name: str) -> nn.Module:
        """The layer; under another adapter it lies one deeper."""
        below = self._layers.get(f"{name}.base_layer")
        return self._layers[name] if below is None else below

    def _candidates(self, name: str) -> Iterator[str]:
        yield name
        if self._renamings is None:
            self._renamings = [
                one for one in get_model_conversion_mapping(self._model) if isinstance(one, WeightRenaming)
            ]
        renamed = name
        for renaming in self._renamings:
            renamed, _ = renaming.rename_source_key(renamed)
            yield renamed
        try:
            decoder = find_family(self._model).decoder(self._model)
        except UnsupportedModelError:
            return
        # Of a text model alone, with its head ("model.layers.0") or without it ("layers.0").
        paths = [path for path, module in self._layers.items() if module is decoder]
        yield from (f"{path}.{name.removeprefix('model.')}" for path in paths)


def _check_shape(
    model: PreTrainedModel, source: AdapterSource, key: str, value: Tensor, part: str, layer: nn.Module
) -> None:
    sides: Mapping[str, int] = {}
    if isinstance(layer, nn.Linear):
        sides = {"lora_A.weight": layer.in_features, "lora_B.weight": layer.out_features}
    elif isinstance(layer, nn.Embedding):
        sides = {"lora_embedding_A": layer.num_embeddings, "lora_embedding_B": layer.embedding_dim}
    wanted = sides.get(part)
    if wanted is None:
        raise _misfit(model, source, key, value, f"a {type(layer).__name__} there")
    if value.dim() != 2 or value.shape[1 if "A" in part else 0] != wanted or not value.is_floating_point():
        raise _misfit(model, source, key, value, f"{wanted} there")


def _misfit(model: PreTrainedModel, source: AdapterSource, key: str, value: Tensor, there: str) -> ConfigError:
    return ConfigError(
        f"adapter does not fit the model: got {key} of shape {list(value.shape)} in {source.name!r}, trained on "
        f"{source.base!r}, and {there} in {model.name_or_path or type(model).__name__!r}; expected an adapter "
        "of this model. Load the model that it was trained on."
    )


def _check_copy(layer: nn.Module, value: Tensor, source: AdapterSource, name: str) -> None:
    """Refuse weights of the model itself that are not the model's: they were trained too, or resized."""
    with weights_at_hand(layer):
        own = getattr(layer, "weight", None)
        same = isinstance(own, Tensor) and own.shape == value.shape
        if isinstance(own, Tensor) and same:
            narrow = min(own.dtype, value.dtype, key=lambda dtype: dtype.itemsize)
            same = torch.equal(own.detach().to(narrow), value.to(own.device, narrow))
    if not same:
        raise ConfigError(
            f"an adapter with weights of the model itself: got {name}.weight of shape {list(value.shape)} in "
            f"{source.name!r}, which is not this model's; expected low-rank layers alone, or a copy of its own. "
            "Merge it into the model that it was trained on with peft, and load the result as a model."
        )


def _check_values(source: AdapterSource, weights: Mapping[str, Tensor]) -> None:
    for key, value in weights.items():
        if value.numel() and not bool(value.isfinite().all()):
            raise AdapterLoadError(
                f"weights that are not finite: got NaN or infinity in {key} of {source.name!r}; expected numbers. "
                "Download or train it again."
            )
    zero = {key.rpartition(".lora_")[0] for key, value in weights.items() if not value.any()}
    if all(key.rpartition(".lora_")[0] in zero for key in weights):
        raise AdapterLoadError(
            f"an adapter that adds nothing: got {source.weights} in which each pair of matrices has one of zeros; "
            "expected trained ones. It was never trained, or its weights were lost when it was saved: peft drops those "
            "with other names than the model's. Download or train it again."
        )


def _rename(config: Any, layers: Mapping[str, str]) -> None:
    """Name each layer as it is called here, with the rank and scale that it has under its name in the file."""
    names = {re.escape(new): (old, new) for new, old in layers.items()}
    config.rank_pattern, config.alpha_pattern = (
        {key: matching(patterns, both, usual) for key, both in names.items()}
        for patterns, usual in ((config.rank_pattern, config.r), (config.alpha_pattern, config.lora_alpha))
    )
    config.target_modules = set(layers)
    config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
