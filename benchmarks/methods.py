"""What `--method` and `--method-arg` mean: the parts of a method, and the configuration that each of them gets."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel

import scr
from scr import ConfigError

from .models import ModelSource, load_processor
from .suggest import suggestion
from .timing import answer_tokens

BASELINE = "none"
"""The model as it is: what every method is compared with."""

Configs = dict[str, dict[str, Any]]
"""Part of a method → fields of its configuration."""


def method_parts(method: str) -> tuple[str, ...]:
    """The names of `scr.list_methods()` that a method is made of: none of "none", two of "scr+noise_control"."""
    return () if method == BASELINE else tuple(method.split("+"))


def check_methods(methods: Sequence[str], method_args: Mapping[str, Any]) -> None:
    """Check the names of methods, and that every setting belongs to one of them.

    Args:
        methods: names, "+" between the parts of a combination.
        method_args: as `benchmarks.plan.RunConfig`.

    Raises:
        ConfigError: naming the first that is wrong.
    """
    known = scr.list_methods()
    for method in methods:
        parts = method_parts(method)
        for part in parts:
            if part == BASELINE:
                raise ConfigError(
                    f"baseline in a combination: got {method!r}; expected methods between the '+', of {known}. "
                    "Leave 'none' out: it is always run beside."
                )
            if part not in known:
                where, names = ("", [BASELINE, *known]) if part == method else (f" in {method!r}", known)
                raise ConfigError(
                    f"unknown method: got {part!r}{where}; expected one of {', '.join(names)}. "
                    f"{suggestion(part, names)}"
                )
        if len(set(parts)) < len(parts):
            raise ConfigError(
                f"a method twice in a combination: got {method!r}; expected each at most once. Leave the second out."
            )
    used = _all_parts(methods)
    if method_args and not used:
        raise ConfigError(
            f"settings without a method: got {sorted(method_args)} with method 'none'; expected none. "
            "Name the method they belong to."
        )
    for key in method_args:
        owner, dot, _ = key.partition(".")
        if dot and owner not in used:
            raise ConfigError(
                f"setting of a method that is not run: got {key!r}; expected FIELD or NAME.FIELD with NAME one of "
                f"{', '.join(used)}. {suggestion(owner, used, 'Name one of these, or add the method.')}"
            )


def given_configs(methods: Sequence[str], source: ModelSource, method_args: Mapping[str, Any]) -> Configs:
    """What is set of every part's configuration: by the checkpoint's settings, the command, or the tokenizer.

    The command wins over the settings, and in it a field of one method over a field of all. A field `no_tokens` that
    is not set gets the first tokens of the spellings of no; the processor is loaded for that alone.

    Args:
        methods: names that `check_methods` accepted.
        source: the model; its "settings" are fields of `SCRConfig`.
        method_args: as `benchmarks.plan.RunConfig`.

    Raises:
        ConfigError: if the tokens of no are asked for, and the tokenizer has none.
        ModelLoadError: if they are asked for, and the processor cannot be loaded.
    """
    parts = _all_parts(methods)
    given = {part: {**settings_used(part, source, method_args), **_from_command(part, method_args)} for part in parts}
    wanting = [part for part in parts if "no_tokens" in _fields(part) and "no_tokens" not in given[part]]
    if wanting:
        tokens = answer_tokens(load_processor(source).tokenizer)
        if tokens.reason is not None:
            raise ConfigError(
                f"no tokens of no for {wanting[0]!r}: got {source.name!r}, where {tokens.reason}; expected spellings "
                f"that differ there. Give them: --method-arg '{wanting[0]}.no_tokens=[...]'."
            )
        for part in wanting:
            given[part]["no_tokens"] = list(tokens.no)
    return given


def settings_used(part: str, source: ModelSource, method_args: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a part that come from the settings beside the checkpoint, not from the command."""
    if scr.get_method(part).config_class is not scr.SCRConfig:
        return {}
    command = _from_command(part, method_args)
    return {name: value for name, value in source.settings.get("settings", {}).items() if name not in command}


def effective_configs(bare: PreTrainedModel, given: Configs) -> Configs:
    """Every part's configuration on this model, defaults and what the family decides filled in.

    Args:
        bare: the model, with or without weights.
        given: part → the fields that are set.

    Raises:
        ConfigError: for an unknown field, a value out of range, or a strength that depends on the order of tokens.
        UnsupportedModelError: if a method cannot work on this model.
    """
    return {part: _checked(scr.patch(bare, part, **fields)) for part, fields in given.items()}


def recorded_config(method: str, configs: Configs) -> dict[str, Any]:
    """A method's configuration as records hold it: flat, or `{part: {...}, ...}` of a combination."""
    parts = method_parts(method)
    if len(parts) > 1:
        return {part: configs[part] for part in parts}
    return configs[parts[0]] if parts else {}


def by_part(method: str, recorded: Mapping[str, Any]) -> Configs:
    """The inverse of `recorded_config`: part → its configuration."""
    parts = method_parts(method)
    return dict(recorded) if len(parts) > 1 else {part: dict(recorded) for part in parts}


@contextlib.contextmanager
def nested(patches: Sequence[scr.Patch]) -> Iterator[None]:
    """All of them on the model, put on in this order and taken off in reverse; none of them is the model as it is."""
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


def _all_parts(methods: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(part for method in methods for part in method_parts(method)))


def _fields(part: str) -> set[str]:
    return {field.name for field in dataclasses.fields(scr.get_method(part).config_class)}


def _from_command(part: str, method_args: Mapping[str, Any]) -> dict[str, Any]:
    for_all = {key: value for key, value in method_args.items() if "." not in key}
    own = {key.removeprefix(f"{part}."): value for key, value in method_args.items() if key.startswith(f"{part}.")}
    return {**for_all, **own}


def _checked(patch: scr.Patch) -> dict[str, Any]:
    if isinstance(getattr(patch.config, "strength", None), scr.contrast.RollingStrength):
        # Batches are cut anew when a run goes on, and a batch has many streams of tokens.
        raise ConfigError(
            f"a strength that depends on the order of tokens: got 'rolling' for {patch.name!r}; expected one that is a "
            "function of the token alone, as answers must not depend on the batch or on where a run was resumed. "
            "Use 'quantile'."
        )
    return patch.config.to_dict()
