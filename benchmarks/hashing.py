"""The name of a configuration: equal settings, equal folder. Standard library only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from .records import RecordError

_DIGITS = 10


def config_hash(identity: Mapping[str, Any]) -> str:
    """Ten hexadecimal digits that name a configuration: sha256 over canonical JSON.

    The order of keys, tuple or list, and 1 or 1.0 make no difference.

    Args:
        identity: all that can change an answer, as JSON values.

    Raises:
        RecordError: for a value that JSON does not know, NaN included.
    """
    try:
        text = json.dumps(_canonical(identity), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RecordError(
            f"the configuration cannot be named: got {identity!r} ({error}); expected JSON values. "
            "Give plain numbers, strings, lists and dictionaries."
        ) from error
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _canonical(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(entry) for entry in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
