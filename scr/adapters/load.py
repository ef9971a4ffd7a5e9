"""Put a trained adapter on a model and take it off again, or write both as one plain checkpoint.

with scr.adapter(model, "lab/refusal"):
    model.generate(**inputs)
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor
from transformers import PreTrainedModel

from .._hooks import uninterrupted, unwrap
from ..checkpoints.offloading import is_offloaded
from ..errors import ConfigError
from ..files import read_json, write_json
from ..unused import warn_unless_used
from .base import check_base_of
from .configuration import read_lora_config
from .lora import prepared_layers
from .sources import AdapterSource, find_adapter
from .weights import read_weights


class Adapter:
    """An adapter, checked against a model: a context manager, and a handle with `install()` and `remove()`.

    One that is dropped without having been put on, or asked for its source, warns.
    """

    def __init__(
        self, model: PreTrainedModel, source: AdapterSource, config: Any, weights: Mapping[str, Tensor]
    ) -> None:
        """Use `scr.adapter`."""
        self._source = source
        self._model, self._config, self._weights = model, config, weights
        self._installed: contextlib.ExitStack | None = None
        self._unused = warn_unless_used(self, "adapter", source.name)

    @property
    def source(self) -> AdapterSource:
        """Where it comes from."""
        self._unused.detach()
        return self._source

    def install(self) -> Self:
        """Put the adapter on the model.

        Raises:
            AlreadyPatchedError: if an adapter is on the model already.
            AdapterLoadError: if the configuration does not put on what the file has weights for.
        """
        self._unused.detach()
        stack = contextlib.ExitStack()
        try:
            uninterrupted(self._put_on, stack)
        except BaseException:
            uninterrupted(self._take_off, stack)
            raise
        return self

    def _put_on(self, stack: contextlib.ExitStack) -> None:
        put_on, take_off = prepared_layers(self._model, self._config, self._weights)
        stack.callback(take_off)  # no generator, which would take them off when this handle is dropped
        put_on()
        self._installed = stack

    def _take_off(self, stack: contextlib.ExitStack) -> None:
        stack.close()
        if self._installed is stack:
            self._installed = None

    def remove(self) -> None:
        """Take the adapter off; the model is as it was, to the bit. Doing it twice does nothing."""
        if self._installed is not None:
            uninterrupted(self._take_off, self._installed)

    def __enter__(self) -> Self:
        """Install."""
        return self.install()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove, whatever happened."""
        try:
            self.remove()
        except BaseException:  # an interrupt, before it had begun
            self.remove()
            raise

    def __repr__(self) -> str:
        """Name and whether it is on."""
        return f"Adapter({self._source.name!r}, {'installed' if self._installed is not None else 'not installed'})"


def adapter(model: Any, name: str | Path | AdapterSource, *, revision: str | None = None) -> Adapter:
    """Prepare an adapter for a model; nothing happens before `with` or `install()`.

    It nests with `scr.patch` in either order.

    Args:
        model: the model that it was trained on, or a compiled wrapper around it.
        name: a name of `scr.list_adapters()`, one that a package brings such as `lab/refusal`, a local folder, a hub
            id, or what `find_adapter` returned.
        revision: branch, tag or commit on the hub.

    Returns:
        The adapter, checked against the model: for a `with`, or for `install()` and `remove()`.

    Raises:
        AdapterLoadError: if there is no such adapter, it is stored as pickles, cannot be read, or adds nothing.
        ConfigError: if it is no LoRA, or its base model or shapes are not those of this model.
        MissingPackageError: without peft.
    """
    model = unwrap(model)[0]
    source = name if isinstance(name, AdapterSource) else find_adapter(str(name), revision)
    config = read_lora_config(source)
    check_base_of(model, source)
    return Adapter(model, source, config, read_weights(model, source, config))


def load_adapter(model: Any, name: str | Path | AdapterSource, *, revision: str | None = None) -> Adapter:
    """Put an adapter on a model, to stay there until `remove()` of the handle returned. Arguments: see `adapter`.

    Raises:
        AlreadyPatchedError: if an adapter is on the model already; else as `adapter`.
    """
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
        ConfigError: for a quantized model, whose weights cannot take a sum, or an offloaded one; for the model's own
            folder; else as `adapter`.
        OSError: where it cannot be written.
    """
    model, folder = unwrap(model)[0], Path(folder)
    own = str(model.name_or_path or "")
    if own and Path(own).is_dir() and folder.is_dir() and folder.samefile(own):
        raise ConfigError(
            f"a merge in place of the model itself: got {str(folder)!r}, from which the model was loaded; expected "
            "another folder, since the adapter is for the model as it is there. Choose another one."
        )
    if getattr(model, "is_quantized", False):
        raise ConfigError(
            "weights that cannot be merged: got a quantized model; expected bfloat16, float16 or float32. "
            "Load the base model unquantized."
        )
    if is_offloaded(model):
        raise ConfigError(
            "weights that cannot be merged: got a model whose weights are offloaded; expected all of them in memory, "
            "which a checkpoint takes anyway. Load the base model without device_map and offloading."
        )
    prepared = adapter(model, name)
    changed: dict[str, Tensor] = {}
    with prepared:
        folder.mkdir(parents=True, exist_ok=True)  # transformers tells its log alone that a file is no folder
        for path, module in model.named_modules():
            if hasattr(module, "get_delta_weight"):
                weight = module.get_base_layer().weight.detach()
                changed[f"{path}.weight"] = (weight.float() + module.get_delta_weight("default").float()).to(weight)
    model.save_pretrained(folder, state_dict={**model.state_dict(), **changed})
    first, last = model.get_input_embeddings(), model.get_output_embeddings()
    names = {f"{path}.weight" for path, module in model.named_modules() if module in (first, last)}
    if names & set(changed) and None not in (first, last) and first.weight is last.weight:
        _untie(folder / "config.json")
    if processor is not None:
        processor.save_pretrained(folder)
    return changed


def _untie(path: Path) -> None:
    """Say that first and last layer are not the same any more: a server that believed it would drop the change."""
    config = read_json(path)
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            part["tie_word_embeddings"] = False
    write_json(path, config)
