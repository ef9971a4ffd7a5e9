"""Put a trained adapter on a model and take it off again, or write both as one plain checkpoint.

with scr.adapter(model, "refusal"):
    model.generate(**inputs)
"""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from hooks import unwrap

from ..errors import AdapterLoadError, ConfigError
from .lora import lora_layers, require_peft
from .sources import AdapterSource, find_adapter

# What a configuration may say beside the default without needing more than sums of two small matrices.
_PLAIN = {
    *(
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "peft_type",
        "peft_version",
        "revision",
        "task_type",
    ),
    *("r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "init_lora_weights"),
    *("megatron_core", "qalora_group_size", "loftq_config", "eva_config", "runtime_config", "ensure_weight_tying"),
}
# Beginnings that leave the model's own weights alone; others ("pissa", "olora", ...) take from them what they add.
_HARMLESS_BEGINNINGS = (True, False, "gaussian", "orthogonal", "eva")
_WEIGHT = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


class Adapter:
    """An adapter, checked against a model: a context manager, and a handle with `install()` and `remove()`.

    Attributes:
        source: where it comes from.
    """

    def __init__(self, model: PreTrainedModel, source: AdapterSource, config: Any) -> None:
        """Use `scr.adapter`."""
        self.source = source
        self._model, self._config = model, config
        self._installed: contextlib.ExitStack | None = None

    def install(self) -> Self:
        """Put the adapter on the model.

        Raises:
            AlreadyPatchedError: if an adapter is on the model already.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(lora_layers(self._model, self._config, load_file(self.source.weights)))
            self._installed = stack.pop_all()
        return self

    def remove(self) -> None:
        """Take the adapter off; the model is as it was, to the bit. Doing it twice does nothing."""
        if self._installed is not None:
            installed, self._installed = self._installed, None
            installed.close()

    def __enter__(self) -> Self:
        """Install."""
        return self.install()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove, whatever happened."""
        self.remove()

    def __repr__(self) -> str:
        """Name and whether it is on."""
        return f"Adapter({self.source.name!r}, {'installed' if self._installed is not None else 'not installed'})"


def adapter(model: Any, name: str | Path | AdapterSource, *, revision: str | None = None) -> Adapter:
    """Prepare an adapter for a model; nothing happens before `with` or `install()`.

    It nests with `scr.patch` in either order.

    Args:
        model: the model that it was trained on, or a compiled wrapper around it.
        name: a name of `scr.list_adapters()`, a local folder, a hub id, or what `find_adapter` returned.
        revision: branch, tag or commit on the hub.

    Raises:
        AdapterLoadError: if there is no such adapter, or it is stored as pickles.
        ConfigError: if it is no LoRA, or its base model or shapes are not those of this model.
        MissingPackageError: without peft.
    """
    model = unwrap(model)[0]
    source = name if isinstance(name, AdapterSource) else find_adapter(str(name), revision)
    config = _read_config(source)
    _check_base(model, source)
    _check_shapes(model, source)
    return Adapter(model, source, config)


def load_adapter(model: Any, name: str | Path | AdapterSource, *, revision: str | None = None) -> Adapter:
    """Put an adapter on a model, to stay there until `remove()` of the handle returned. Arguments: see `adapter`."""
    return adapter(model, name, revision=revision).install()


def merge_adapter(
    model: Any, name: str | Path | AdapterSource, folder: str | Path, *, processor: Any = None
) -> dict[str, Tensor]:
    """Write model and adapter as one plain checkpoint, which needs neither peft nor this project.

    Its answers are those of the adapted model but for rounding: 1e-5 of the logits in float32. The model itself stays
    as it was.

    Args:
        model: the model.
        name: see `adapter`.
        folder: where the checkpoint goes.
        processor: written beside it, if given.

    Returns:
        The weights that differ from the model's, by name.

    Raises:
        ConfigError: for a quantized model, whose weights cannot take a sum; else as `adapter`.
    """
    model = unwrap(model)[0]
    if getattr(model, "is_quantized", False):
        raise ConfigError(
            "weights that cannot be merged: got a quantized model; expected bfloat16, float16 or float32. "
            "Load the base model unquantized."
        )
    prepared = adapter(model, name)
    changed: dict[str, Tensor] = {}
    with lora_layers(model, prepared._config, load_file(prepared.source.weights)):
        for path, module in model.named_modules():
            if hasattr(module, "get_delta_weight"):
                weight = module.get_base_layer().weight.detach()
                changed[f"{path}.weight"] = (weight.float() + module.get_delta_weight("default").float()).to(weight)
    model.save_pretrained(folder, state_dict={**model.state_dict(), **changed})
    first, last = model.get_input_embeddings(), model.get_output_embeddings()
    names = {f"{path}.weight" for path, module in model.named_modules() if module is last}
    if names & set(changed) and first is not None and first.weight is last.weight:
        _untie(Path(folder) / "config.json")
    if processor is not None:
        processor.save_pretrained(folder)
    return changed


def _untie(path: Path) -> None:
    """Say that first and last layer are not the same any more: a server that believed it would drop the change."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            part["tie_word_embeddings"] = False
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _read_config(source: AdapterSource) -> Any:
    peft = require_peft()
    given = json.loads(source.config.read_text(encoding="utf-8"))
    usual = peft.LoraConfig().to_dict()
    more = {k: v for k, v in given.items() if k in usual and k not in _PLAIN and v and v != usual[k]}
    beginning = given.get("init_lora_weights", True)
    if beginning not in _HARMLESS_BEGINNINGS:
        more["init_lora_weights"] = beginning
    if given.get("peft_type") != "LORA" or more:
        # Others change the model's own weights or its forward, and could not be merged, or taken off to the bit.
        said = "".join(f", {name} {value!r}" for name, value in more.items())
        raise ConfigError(
            f"an adapter of another kind: got {given.get('peft_type')}{said}; expected plain LoRA, that adds layers "
            "alone. Merge it into the model with peft, and load the result as a model."
        )
    try:
        config = peft.PeftConfig.from_pretrained(str(source.config.parent))
    except (TypeError, ValueError, KeyError) as error:
        raise AdapterLoadError(
            f"adapter cannot be read: got {source.config} ({error}); expected a peft configuration. Update peft."
        ) from error
    config.inference_mode = True
    config.init_lora_weights = True  # the file's weights follow
    return config


def _check_base(model: PreTrainedModel, source: AdapterSource) -> None:
    """Compare names where both are hub ids; a folder may hold anything, so there the shapes must do."""
    own = str(model.name_or_path or "")
    if source.base_is_folder or not source.base or not own or Path(own).exists():
        return
    if own.casefold() != source.base.casefold() and not source.base.startswith("lab/"):
        raise ConfigError(
            f"adapter of another model: got {source.name!r}, trained on {source.base!r}, for {own!r}; expected "
            f"one that was trained on {own!r}. Load {source.base!r}, or another adapter."
        )


def _check_shapes(model: PreTrainedModel, source: AdapterSource) -> None:
    known = dict(model.named_modules())
    try:
        with safe_open(source.weights, "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  no mapping
    except SafetensorError as error:
        raise AdapterLoadError(
            f"adapter cannot be read: got {source.weights} ({error}); expected safetensors. Download or train it again."
        ) from error
    for name, shape in shapes.items():
        match = _WEIGHT.fullmatch(name)
        # Under another adapter the layer lies one deeper.
        module = known.get(f"{match['module']}.base_layer", known.get(match["module"])) if match else None
        wanted = None
        if match and isinstance(module, nn.Linear):
            wanted = module.in_features if match["side"] == "A" else module.out_features
        if match is None or len(shape) != 2 or wanted != shape[1 if match["side"] == "A" else 0]:
            there = "no such layer" if wanted is None else f"{wanted} there"
            raise ConfigError(
                f"adapter does not fit the model: got {name} of shape {shape} in {source.name!r}, trained on "
                f"{source.base!r}, and {there} in {model.name_or_path or type(model).__name__!r}; expected an adapter "
                "of this model. Load the model that it was trained on; if only the names are of an older transformers, "
                "load and save the adapter with peft."
            )
