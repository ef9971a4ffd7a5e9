"""Low-rank layers in a model, and their exact undo: the one place where peft changes a model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .._hooks import find_family
from ..checkpoints.offloading import execution_device, is_offloaded
from ..errors import AdapterLoadError, AlreadyPatchedError, ConfigError, MissingPackageError
from .recipe import TrainingRecipe


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
        As `prepared_layers`.
    """
    put_on, take_off = prepared_layers(model, config, weights, trainable)
    try:
        yield put_on()
    finally:
        take_off()


def prepared_layers(
    model: PreTrainedModel, config: Any, weights: Mapping[str, Tensor] | None = None, trainable: bool = False
) -> tuple[Callable[[], Any], Callable[[], None]]:
    """What puts low-rank layers into a model and what takes them out, whether they went in wholly, in part or not.

    Arguments: see `lora_layers`. Nothing happens before the first is called, nor when both are dropped.

    Raises:
        AlreadyPatchedError: if an adapter is on the model already.
        ConfigError: for a beginning on a model whose weights are offloaded, which gradients would not reach.
        AdapterLoadError: for weights that do not fill the layers, or a configuration that peft cannot put on the model.
    """
    require_peft()
    if getattr(model, "peft_config", None):
        raise AlreadyPatchedError(
            "adapter already on this model: got a second one; expected at most one. "
            "Leave the first `with` (or call `remove()`; `unload()` of a PeftModel) before."
        )
    if weights is None and is_offloaded(model):
        raise ConfigError(
            "a model that cannot be trained: got one whose weights are offloaded; expected all of them where it "
            "computes. Load it without device_map and offloading; --quantize nf4 takes a quarter of the memory."
        )
    # By name: with each forward, an offloaded weight is another object.
    gradients = {name: one.requires_grad for name, one in model.named_parameters(remove_duplicate=False)}
    modes = {module: module.training for module in model.modules()}

    def undo() -> None:
        for path, module in list(model.named_modules()):
            if _is_lora(module):
                model.set_submodule(path, module.get_base_layer())
        vars(model).pop("peft_config", None)
        for name, parameter in model.named_parameters(remove_duplicate=False):
            parameter.requires_grad_(gradients.get(name, parameter.requires_grad))
        for module, mode in modes.items():
            module.training = mode

    def take_off() -> None:
        try:
            undo()
        except BaseException:
            undo()  # an interrupt in the middle of it
            raise

    return lambda: _put_on(model, config, weights, trainable), take_off


def _put_on(model: PreTrainedModel, config: Any, weights: Mapping[str, Tensor] | None, trainable: bool) -> Any:
    peft = require_peft()
    own = {id(parameter) for parameter in model.parameters()}
    device = next(model.parameters()).device
    try:
        # peft draws first weights, from the global state: who samples should not notice.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            tuner = peft.LoraModel(model, config, "default")
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # as many kinds as there are ways for a configuration to be wrong
        said = next(iter(str(error).splitlines()), "")
        raise AdapterLoadError(
            f"adapter cannot be put on the model: got targets {str(config.target_modules)[:200]} "
            f"({type(error).__name__}: {said}); expected linear layers of it. Download or train it again."
        ) from error
    for layer in [module for module in model.modules() if _is_lora(module)]:
        _materialise(layer)
        layer.train(trainable)
    for parameter in model.parameters():
        parameter.requires_grad_(trainable and id(parameter) not in own)
    if weights is not None:
        _fill(model, weights)
    return tuner


def _materialise(layer: Any) -> None:
    """Low-rank weights where an offloaded layer computes: peft makes them where its weights lie, which is nowhere."""
    base = layer.get_base_layer()
    if not any(parameter.is_meta for parameter in base.parameters(recurse=False)):
        return
    device = execution_device(base)
    if device is None:
        raise ConfigError(
            f"a model without weights: got a {type(base).__name__} on torch's meta device; expected one that was "
            "loaded, or is offloaded by accelerate. Load the model."
        )
    dtype = base.weight.dtype if base.weight.is_floating_point() else None
    for low_rank in (layer.lora_A, layer.lora_B):
        for module in low_rank.values():
            module.to_empty(device=device).to(dtype=dtype)
    for matrices in (layer.lora_embedding_A, layer.lora_embedding_B):
        for name, matrix in matrices.items():
            matrices[name] = nn.Parameter(torch.empty_like(matrix, device=device, dtype=dtype))


def _fill(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
    bare = {name.removeprefix("base_model.model."): value for name, value in weights.items()}
    try:
        result = require_peft().set_peft_model_state_dict(model, bare, "default")
    except RuntimeError as error:
        raise AdapterLoadError(
            f"weights of another rank: got {' '.join(str(error).split())[:300]}; expected those that the "
            "configuration says. Download or train it again."
        ) from error
    lacking = [name for name in result.missing_keys if "lora_" in name]
    if lacking or result.unexpected_keys:
        raise AdapterLoadError(
            f"weights do not fill the adapter: got nothing for {lacking[:3]} and {result.unexpected_keys[:3]} "
            "too much; expected one pair for each targeted layer. Download or train it again."
        )


def _is_lora(module: nn.Module) -> bool:
    return isinstance(module, require_peft().tuners.lora.LoraLayer)


def adapter_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """The weights of the adapter on a model, by their names in a file of peft's; on the CPU."""
    # By default peft asks the hub whether the vocabulary has grown.
    state = require_peft().get_peft_model_state_dict(model, adapter_name="default", save_embedding_layers=False)
    return {f"base_model.model.{name}": value.detach().cpu().contiguous() for name, value in state.items()}


def lora_config(model: PreTrainedModel, recipe: TrainingRecipe, base: str, base_revision: str | None) -> Any:
    """Peft's configuration, with targets in the language model's blocks alone.

    A bare "q_proj" would be found in the vision tower too.

    Raises:
        ConfigError: for a target that is no linear layer of any block, or a rank above every layer's width.
    """
    blocks = find_family(model).layers(model)
    names = {id(module): name for name, module in model.named_modules()}
    chosen = {
        names[id(module)]: max(module.in_features, module.out_features)
        for block in blocks
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in recipe.targets
    }
    found = {name.rpartition(".")[2] for name in chosen}
    if missing := [name for name in recipe.targets if name not in found]:
        linear = {n.rpartition(".")[2] for n, module in blocks[0].named_modules() if isinstance(module, nn.Linear)}
        raise ConfigError(
            f"no such layers: got targets {missing}; expected some of {sorted(linear)}, which the blocks of "
            f"{type(model).__name__} have. Choose among these."
        )
    if recipe.rank > (width := max(chosen.values())):
        raise ConfigError(
            f"rank out of range: got {recipe.rank} for layers of width {width}; expected at most their width, above "
            "which nothing more can be learnt. Set it within these bounds."
        )
    return require_peft().LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=sorted(chosen),
        base_model_name_or_path=base,
        revision=base_revision,
    )


def trainable_parameters(model: PreTrainedModel) -> dict[str, int]:
    """How many numbers are trained in the language model, and how many in all the rest, which should be 0."""
    own = {id(parameter) for parameter in find_family(model).decoder(model).parameters()}
    counts = {"language model": 0, "rest": 0}
    for parameter in model.parameters():
        if parameter.requires_grad:
            counts["language model" if id(parameter) in own else "rest"] += parameter.numel()
    return counts


def require_peft() -> Any:
    """The peft package.

    Raises:
        MissingPackageError: if it is not installed, with the line that installs it.
    """
    try:
        import peft
    except ImportError as error:
        raise MissingPackageError(
            "adapters need peft: got none installed; expected peft ≥ 0.20. Run `pip install peft`, "
            'or in a checkout `pip install -e ".[adapters]"`.'
        ) from error
    return peft
