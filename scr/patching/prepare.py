"""`patch()`: the method that a name or a configuration means, made ready for a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from transformers import PreTrainedModel

from .._hooks import map_family, unwrap
from ..errors import ConfigError
from ..methods import METHODS, MethodConfig, MethodEntry, get_method
from .combination import CombinedConfig, fields_by_part, method_parts
from .patch import Combination, Patch

# Made by `python -m scr.methods.overloads`:
if TYPE_CHECKING:
    from ..contrast import Strength
    from ..perturb import Perturbation

MethodName = Literal[
    "scr",
    "scr_one_pass",
    "uniform_smooth",
    "noise_control",
    "purified",
    "vcd",
    "oa_vcd",
    "icd",
    "m3id",
    "sid",
    "avisc",
    "crops",
    "pai",
    "vaf",
    "head_guidance",
    "spin",
    "only",
    "dola",
    "deco",
    "rudder",
    "vista",
    "vti",
    "vli",
    "opera",
    "plausibility_only",
    "yes_shift",
]
"""A row of the table."""


@overload
def patch(
    model: PreTrainedModel,
    method: Literal["scr", "uniform_smooth", "noise_control"] = "scr",
    *,
    family: str | None = None,
    scale: float = 1.1,
    num_sources: int = 32,
    layers: range | Sequence[int] | None = None,
    connectivity: Literal[4, 8] = 8,
    radius: int = 1,
    include_border: bool = False,
    selection: Literal["top_k", "greedy"] = "top_k",
    edit: Literal["redistribute", "noise"] = "redistribute",
    seed: int = 0,
    keep_traces: int = 16,
    attention_layers: range | Sequence[int] | None = None,
    heads: float = 1.0,
    source: Literal["attention", "random"] = "attention",
    map_from: Literal["prompt", "image"] = "prompt",
) -> Patch: ...


@overload
def patch(
    model: PreTrainedModel,
    method: Literal["scr_one_pass"],
    *,
    family: str | None = None,
    scale: float = 1.1,
    num_sources: int = 32,
    layers: range | Sequence[int] | None = None,
    connectivity: Literal[4, 8] = 8,
    radius: int = 1,
    include_border: bool = False,
    selection: Literal["top_k", "greedy"] = "top_k",
    edit: Literal["redistribute", "noise"] = "redistribute",
    seed: int = 0,
    keep_traces: int = 16,
    predictor: str,
) -> Patch: ...


@overload
def patch(
    model: PreTrainedModel,
    method: Literal["purified"],
    *,
    family: str | None = None,
    edited: bool = True,
    engine: Literal["auto", "processor", "joined"] = "auto",
    perturbation: Perturbation | str | Mapping[str, Any] = ...,
    strength: Strength | str | Mapping[str, Any] = ...,
    plausibility: float = 0.0,
    confidence: Literal["max_logprob", "entropy", "margin"] = "max_logprob",
    space: Literal["logits", "logprobs"] = "logits",
    only_below: float | None = None,
    contrast: float | None = None,
    image_keep: float | None = None,
) -> Patch: ...


@overload
def patch(
    model: PreTrainedModel,
    method: Literal["vcd"],
    *,
    family: str | None = None,
    edited: bool = True,
    engine: Literal["auto", "processor", "joined"] = "auto",
    perturbation: Perturbation | str | Mapping[str, Any] = ...,
    strength: Strength | str | Mapping[str, Any] = ...,
    plausibility: float = 0.1,
    confidence: Literal["max_logprob", "entropy", "margin"] = "max_logprob",
    space: Literal["logits", "logprobs"] = "logits",
    only_below: float | None = None,
    contrast: float | None = None,
    noise_step: int | None = None,
) -> Patch: ...


@overload
def patch(
    model: PreTrainedModel,
    method: Literal["oa_vcd"],
    *,
    family: str | None = None,
    edited: bool = True,
    engine: Literal["auto", "processor", "joined"] = "auto",
    saliency: Literal["tower"] | Callable = "tower",
    covered: float = 0.6,
    fill: Perturbation | str | Mapping[str, Any] = ...,
    contrast: float = 1.0,
    plausibility: float = 0.1,
) -> Patch: ...


@overload
def patch(
    model: PreTrainedModel,
    method: Literal["icd"],
    *,
    family: str | None = None,
    edited: bool = True,
    engine: Literal["auto", "processor", "joined"] = "auto",
    instruction: str | Sequence[int] = "You are a confused object detector.",
    contrast: float = 1.0,
    plausibility: float = 0.1,
) -> Patch: ...


@overload
def patch(
    model: PreTrainedModel,
    method: Literal["m3id"],
    *,
    family: str | None = None,
    edited: bool = True,
    engine: Literal["auto", "processor", "joined"] = "auto",
    fading: float = 0.02,
    plausibility: float = 0.1,
    only_below: float | None = None,
) -> Patch: ...


@overload
def patch(
    model: PreTrainedModel,
    method: Literal["sid"],
    *,
    family: str | None = None,
    edited: bool = True,
    engine: Literal["auto", "processor", "joined"] = "auto",
    kept: float = 0.1736111111111111,
    first_layer: int = 2,
    contrast: float = 1.0,
    plausibility: float = 0.1,
    compat: Literal["official"] | None = None,
) -> Patch: ...


@overload
def patch(
    model: PreTrainedModel,
    method: Literal["avisc"],
    *,
    family: str | None = None,
    edited: bool = True,
    engine: Literal["auto", "processor", "joined"] = "auto",
    layer_share: float = 0.5,
    deviations: float = 1.0,
    contrast: float = 1.0,
    plausibility: float = 0.1,
) -> Patch: ...


@overload
def patch(
    model: PreTrainedModel,
    method: Literal["crops"],
    *,
    family: str | None = None,
    edited: bool = True,
    engine: Literal["auto", "processor", "joined"] = "auto",
    rate: float = 0.01,
    contrast: float = 1.0,
    plausibility: float = 0.1,
    sure_above: float = 0.95,
    image_kept: float = 0.25,
    text_kept: int = 10,
    text_more: int = 30,
    text_rate: float = 0.001,
    first_layer: int = 2,
) -> Patch: ...


@overload
def patch(
    model: PreTrainedModel,
    method: Literal["pai"],
    *,
    family: str | None = None,
    edited: bool = True,
    engine: Literal["auto", "processor", "joined"] = "auto",
    strength: float = 0.2,
    layers: range | Sequence[int] | None = None,
    guidance: float = 1.1,
    plausibility: float = 0.1,
) -> Patch: ...


@overload
def patch(
    model: PreTrainedModel,
    method: Literal["vaf"],
    *,
    family: str | None = None,
    image_factor: float = 1.15,
    system_factor: float = 0.95,
    layers: range | Sequence[int] | None = None,
) -> Patch: ...


@overload
def patch(
    model: PreTrainedModel,
    method: Literal["head_guidance"],
    *,
    family: str | None = None,
    strength: float = 0.5,
    layers: range | Sequence[int] | None = None,
) -> Patch: ...


@overload
def patch(
    model: PreTrainedModel,
    method: Literal["spin"],
    *,
    family: str | None = None,
    kept: float = 0.95,
    factor: float = 0.08,
    layers: range | Sequence[int] | None = None,
) -> Patch: ...


@overload
def patch(
    model: PreTrainedModel,
    method: Literal["only"],
    *,
    family: str | None = None,
    agreement: float = 0.2,
    added: float = 3.0,
    contrast: float = 1.0,
    plausibility: float = 0.1,
    residual: float = 0.2,
    deviations: float = 1.0,
) -> Patch: ...


@overload
def patch(
    model: PreTrainedModel,
    method: Literal["dola"],
    *,
    family: str | None = None,
    layers: Literal["low", "high"] | Sequence[int] = "low",
    plausibility: float = 0.1,
) -> Patch: ...


@overload
def patch(
    model: PreTrainedModel,
    method: Literal["deco"],
    *,
    family: str | None = None,
    strength: float = 0.6,
    layers: range | Sequence[int] | None = None,
    top_p: float = 0.9,
    most_candidates: int = 20,
) -> Patch: ...


@overload
def patch(
    model: PreTrainedModel,
    method: Literal["rudder"],
    *,
    family: str | None = None,
    strength: float = 20.0,
    slope: float = 5.0,
    offset: float = 1.0,
    block: int | None = None,
) -> Patch: ...


@overload
def patch(
    model: PreTrainedModel,
    method: Literal["vista"],
    *,
    family: str | None = None,
    strength: float = 0.17,
    early_share: float = 0.3,
    early_layers: range | Sequence[int] | None = None,
) -> Patch: ...


@overload
def patch(
    model: PreTrainedModel,
    method: Literal["vti"],
    *,
    family: str | None = None,
    vectors: str,
    text: float = 0.9,
    vision: float = 0.9,
) -> Patch: ...


@overload
def patch(
    model: PreTrainedModel,
    method: Literal["vli"],
    *,
    family: str | None = None,
    edited: bool = True,
    engine: Literal["auto", "processor", "joined"] = "auto",
    strength: float = 0.1,
    anchored: float = 0.4,
    saliency: Literal["tower"] | Callable = "tower",
    fill: Perturbation | str | Mapping[str, Any] = ...,
) -> Patch: ...


@overload
def patch(
    model: PreTrainedModel,
    method: Literal["opera"],
    *,
    family: str | None = None,
    penalty: float = 1.0,
    scale: float = 50.0,
    candidates: int = 5,
    threshold: int | None = 15,
    compat: Literal["paper", "official"] = "paper",
) -> Patch: ...


@overload
def patch(
    model: PreTrainedModel,
    method: Literal["plausibility_only"],
    *,
    family: str | None = None,
    plausibility: float = 0.1,
) -> Patch: ...


@overload
def patch(
    model: PreTrainedModel,
    method: Literal["yes_shift"],
    *,
    family: str | None = None,
    shift: float,
    no_tokens: Sequence[int],
) -> Patch: ...


@overload
def patch(model: PreTrainedModel, method: MethodConfig | str, *, family: Any = None) -> Patch: ...


# So far made.


def patch(
    model: PreTrainedModel, method: str | MethodConfig = "scr", *, family: str | None = None, **fields: Any
) -> Patch:
    """Prepare a method for a model; nothing happens before `with` or `install()`.

        with scr.patch(model):
            out = model.generate(**inputs)
        with scr.patch(model, scr.SCRConfig(num_sources=16)) as patched:
            model.generate(**inputs)
            patched.traces[-1]
        with scr.patch(model, "uniform_smooth", seed=1): ...
        with scr.patch(model, "scr+purified", **{"scr.scale": 1.2, "purified.contrast": 0.4}): ...

    Args:
        model: a transformers model of a supported family (`scr.list_families()`), or a PeftModel around one, or what
            `torch.compile` made of it: that whose `generate` is called.
        method: a name of `scr.list_methods()`; several with "+" between, which are nested in that order; "none", which
            changes nothing; or a configuration. Case does not matter.
        family: name of `scr.list_families()`, for a model whose `config.model_type` is none of theirs but that is laid
            out as one of them: a fine-tune under a name of its own. It is checked as strictly, and stays so for the
            model. None goes by the model's type.
        **fields: fields of the method's configuration, where a name is given; a range also as [start, stop]. Of a
            combination a field is set for all parts, or as "NAME.FIELD" for one, as on the command line.

    Returns:
        The method, checked against the model: for a `with`, or for `install()` and `remove()`.

    Raises:
        UnsupportedModelError: for a model that no family answers for, or that is not laid out as `family`.
        ConfigError: for an unknown method or field, or a value out of range.
    """
    model, compiled = unwrap(model)
    if family is not None:
        map_family(model, family)
    configs: Mapping[str, MethodConfig]
    if isinstance(method, MethodConfig):
        if fields:
            raise ConfigError(
                f"a configuration and fields: got both, fields {sorted(fields)}; expected one of them. "
                "Set the fields in the configuration."
            )
        configs = method.parts if isinstance(method, CombinedConfig) else {_entry_of(method).name: method}
    else:
        given = fields_by_part(method_parts(method), fields)
        configs = {part: get_method(part).configure(own) for part, own in given.items()}
    # All of them are checked before the first patch is made, which would warn that it was not used.
    methods = {part: METHODS[part].method(model, config) for part, config in configs.items()}
    patches = [Patch(model, part, made, compiled) for part, made in methods.items()]
    return patches[0] if len(patches) == 1 else Combination(patches)


def _entry_of(config: MethodConfig) -> MethodEntry:
    for entry in METHODS.values():
        if type(config) is entry.config_class and not entry.preset:
            return entry
    raise ConfigError(
        f"configuration of no known method: got {type(config).__name__}; expected one of "
        f"{sorted({entry.config_class.__name__ for entry in METHODS.values()})}. Add the method to the table."
    )
