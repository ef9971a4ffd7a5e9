"""What of a method can travel: its name, and fields that mean the same on any machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from ..methods import MethodConfig, get_method
from ..patching.combination import fields_by_part, method_parts


@dataclass(frozen=True, kw_only=True)
class Published:
    """What is published.

    Attributes:
        method: its name, or several with "+" between.
        configs: part of it → its configuration.
        fields: what `scr.patch` is given: of a single method "FIELD", else "NAME.FIELD".
    """

    method: str
    configs: Mapping[str, MethodConfig]
    fields: Mapping[str, Any]


def published(method: str, fields: Mapping[str, Any]) -> Published:
    """A method with all of its fields, checked that they mean the same anywhere.

    Args:
        method: as `scr.patch` takes it.
        fields: likewise.

    Raises:
        ConfigError: for an unknown method or field, a value out of range, the unpatched model, or a field whose value
            is of this machine or this process alone.
    """
    parts = method_parts(method)
    if not parts:
        raise ConfigError(
            f"nothing to publish: got {method!r}, the model as it is; expected a method. Choose one: `scr bench --list "
            "methods`."
        )
    configs = {part: get_method(part).configure(own) for part, own in fields_by_part(parts, fields).items()}
    for part, config in configs.items():
        if here := config.here_only():
            raise ConfigError(
                f"{part} cannot be published with these fields: got {', '.join(here)}, which nobody else has; expected "
                "values that mean the same anywhere. Give others by --set, or hand the file over and call scr.patch."
            )
    single = len(parts) == 1
    flat = {
        name if single else f"{part}.{name}": value
        for part, config in configs.items()
        for name, value in config.to_dict().items()
    }
    return Published(method="+".join(parts), configs=configs, fields=flat)
