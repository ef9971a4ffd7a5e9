"""An adapter's `adapter_config.json` as peft's configuration: plain LoRA alone, every field of its own type."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

from ..errors import AdapterLoadError, ConfigError
from ..fields import Count, Index, Share, checked
from ..kinds import FieldError, That
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
        try:
            checked(name, value, _FIELDS[name])
        except FieldError as error:
            raise AdapterLoadError(
                f"adapter cannot be read: got {error.name} = {error.got} in {source.config}; expected "
                f"{error.expected}. Download or train it again."
            ) from error
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


def _is_pattern(text: str) -> bool:
    try:
        return bool(re.compile(text))
    except (re.error, RecursionError, OverflowError):
        return False


_Pattern = Annotated[str, That(_is_pattern, "that is a regular expression")]
_Names = _Pattern | list[_Pattern]
# All that peft needs for sums of two small matrices.
_FIELDS: dict[str, Any] = {
    "r": Count,
    "lora_alpha": float,
    "lora_dropout": Share,
    "use_rslora": bool,
    "fan_in_fan_out": bool,
    "rank_pattern": dict[_Pattern, Count],
    "alpha_pattern": dict[_Pattern, float],
    "target_modules": _Names,
    "exclude_modules": _Names,
    "layers_to_transform": Index | list[Index],
    "layers_pattern": _Names,
}
