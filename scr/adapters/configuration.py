"""An adapter's `adapter_config.json` as peft's configuration: plain LoRA alone, every field of its own type."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import AdapterLoadError, ConfigError
from .lora import require_peft
from .sources import AdapterSource, read_configuration

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


def read_lora_config(source: AdapterSource) -> Any:
    """The `peft.LoraConfig` that an adapter is put on with.

    Raises:
        ConfigError: if it is no plain LoRA.
        AdapterLoadError: if it cannot be read, has a field of another type, or is scaled to nothing.
        MissingPackageError: without peft.
    """
    peft = require_peft()
    given = read_configuration(source.config)
    usual = peft.LoraConfig().to_dict()
    _check_plain(given, usual)
    values = {
        name: given[name]
        for name in _FIELDS
        if name in given and not (given[name] is None and usual[name] in (None, {}))
    }
    for name, value in values.items():
        fits, expected = _FIELDS[name]
        if not fits(value):
            raise AdapterLoadError(
                f"adapter cannot be read: got {name} = {str(value)[:60]!r} in {source.config}; expected {expected}. "
                "Download or train it again."
            )
    if not any((values.get("lora_alpha", usual["lora_alpha"]), *values.get("alpha_pattern", {}).values())):
        raise AdapterLoadError(
            f"an adapter that adds nothing: got lora_alpha = 0 in {source.config}; expected a number that is not 0, "
            "by which its layers are scaled. Download or train it again."
        )
    if strange := sorted(name for name, value in given.items() if name not in usual and value):
        warnings.warn(
            f"settings of {source.name!r} that the installed peft does not know are ignored: {', '.join(strange)}. "
            "Update peft if they matter.",
            stacklevel=4,
        )
    return peft.LoraConfig(**values, base_model_name_or_path=source.base, inference_mode=True)


def matching(patterns: dict[str, Any], names: Sequence[str], otherwise: Any) -> Any:
    """What the first pattern that fits a layer gives, as peft matches them; its first name goes first."""
    found = (value for name in names for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name))
    return next(found, otherwise)


def _check_plain(given: dict[str, Any], usual: dict[str, Any]) -> None:
    more = {k: v for k, v in given.items() if k in usual and k not in _PLAIN and v and v != usual[k]}
    beginning = given.get("init_lora_weights", True)
    if beginning not in _HARMLESS_BEGINNINGS:
        more["init_lora_weights"] = beginning
    if given.get("peft_type") != "LORA" or more:
        # Others change the model's own weights or its forward, and could not be merged, or taken off to the bit.
        said = "".join(f", {name} {str(value)[:60]!r}" for name, value in more.items())
        raise ConfigError(
            f"an adapter of another kind: got {str(given.get('peft_type'))[:60]}{said}; expected plain LoRA, that adds "
            "layers alone. Merge it into the model with peft, and load the result as a model."
        )


def _is_rank(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _is_pattern(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(re.compile(value))
    except (re.error, RecursionError, OverflowError):
        return False


def _by_layer(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(_is_pattern(k) and fits(v) for k, v in value.items())


def _one_or_more(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: fits(value) or (isinstance(value, list) and all(map(fits, value)))


_NAMES = (_one_or_more(_is_pattern), "a pattern or a list of names")
# Field → whether a value is one, and what is expected. All that peft needs for sums of two small matrices.
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "r": (_is_rank, "an integer ≥ 1"),
    "lora_alpha": (_is_number, "a finite number"),
    "lora_dropout": (lambda value: _is_number(value) and 0 <= value <= 1, "a number in [0, 1]"),
    "use_rslora": (_is_flag, "true or false"),
    "fan_in_fan_out": (_is_flag, "true or false"),
    "rank_pattern": (_by_layer(_is_rank), "patterns of layers → integers ≥ 1"),
    "alpha_pattern": (_by_layer(_is_number), "patterns of layers → finite numbers"),
    "target_modules": _NAMES,
    "exclude_modules": _NAMES,
    "layers_to_transform": (_one_or_more(lambda value: type(value) is int and value >= 0), "numbers of layers"),
    "layers_pattern": _NAMES,
}
