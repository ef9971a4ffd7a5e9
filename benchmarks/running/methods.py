"""What `--method` and `--method-arg` mean: the parts of a method, and the configuration that each of them gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel

import scr
from scr import BASELINE as BASELINE
from scr import ConfigError, check_beams, fields_by_part, method_parts
from scr.reading import answer_tokens

from ..asking.models import ModelSource, load_processor

Configs = dict[str, dict[str, Any]]
"""Part of a method → fields of its configuration."""


def check_methods(
    methods: Sequence[str], method_args: Mapping[str, Any], generation: Mapping[str, Any] | None = None
) -> None:
    """Check the names of methods, that every setting belongs to one of them, and that each has the beams it needs.

    Args:
        methods: names, "+" between the parts of a combination.
        method_args: as `benchmarks.running.plan.RunConfig`.
        generation: arguments of `generate`; by default none, which is greedy decoding.

    Raises:
        ConfigError: naming the first that is wrong.
    """
    fields_by_part(_all_parts(methods), method_args)
    check_beams(_all_parts(methods), generation or {})


def given_configs(methods: Sequence[str], source: ModelSource, method_args: Mapping[str, Any]) -> Configs:
    """What is set of every part's configuration: by the checkpoint's settings, the command, or the tokenizer.

    The command wins over the settings, and in it a field of one method over a field of all. A method's
    `answer_tokens` that are not set get the first tokens of the spellings, and its `phrases` their ids; the processor
    is loaded for that alone.

    Args:
        methods: names that `check_methods` accepted.
        source: the model; its "settings" are fields of the methods that take them.
        method_args: as `benchmarks.running.plan.RunConfig`.

    Raises:
        ConfigError: if tokens of an answer are asked for, and the tokenizer has none.
        ModelLoadError: if they are asked for, and the processor cannot be loaded.
    """
    command = fields_by_part(_all_parts(methods), method_args)
    given = {part: {**settings_used(part, source, fields), **fields} for part, fields in command.items()}
    wanting = [
        (part, field, answer)
        for part in given
        for field, answer in scr.get_method(part).config_class.answer_tokens.items()
        if field not in given[part]
    ]
    texts = [
        (part, name, text)
        for part in given
        for name, text in _phrases(scr.get_method(part).config_class, given[part]).items()
    ]
    if not wanting and not texts:
        return given
    tokenizer = load_processor(source).tokenizer
    for part, name, text in texts:
        given[part][name] = tokenizer.encode(text, add_special_tokens=False)
    if wanting:
        tokens = answer_tokens(tokenizer)
        for part, field, answer in wanting:
            if tokens.reason is not None:
                raise ConfigError(
                    f"no tokens of {answer} for {part!r}: got {source.name!r}, where {tokens.reason}; expected "
                    f"spellings that differ there. Give them: --method-arg '{part}.{field}=[...]'."
                )
            given[part][field] = list(getattr(tokens, answer))
    return given


def settings_used(part: str, source: ModelSource, command: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a part that come from the settings beside the checkpoint, not from the command's for this part."""
    beside = scr.get_method(part).settings_of(source.settings)
    return {name: value for name, value in beside.items() if name not in command}


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


def patched(model: PreTrainedModel, method: str, configs: Configs) -> scr.Patch:
    """A method on the model, its parts one inside the other; `configs` has the fields of each of them."""
    fields = {f"{part}.{name}": value for part in method_parts(method) for name, value in configs[part].items()}
    return scr.patch(model, method, **fields)


def _phrases(config_class: Any, given: Mapping[str, Any]) -> dict[str, str]:
    """The fields that hold a text for the model to read."""
    values = {name: given.get(name, getattr(config_class, name, None)) for name in config_class.phrases}
    return {name: value for name, value in values.items() if isinstance(value, str)}


def _all_parts(methods: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(part for method in methods for part in method_parts(method)))


def _checked(patch: scr.Patch) -> dict[str, Any]:
    for name, chosen in patch.config.ordered().items():
        # Batches are cut anew when a run goes on, and a batch has many streams of tokens.
        raise ConfigError(
            f"a {name} that depends on the order of tokens: got {chosen.name!r} for {patch.name!r}; expected one that "
            "is a function of the token alone, as answers must not depend on the batch or on where a run was resumed. "
            f"Use {chosen.unordered!r}."
        )
    return patch.config.to_dict()
