"""Ranges of blocks as papers publish them, for models of another depth."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from .._hooks import find_family
from ..errors import ConfigError

_PUBLISHED = 32


def scaled(published: range, num_layers: int) -> range:
    """A range published for models of 32 blocks, for one of `num_layers`.

    It holds as it is for models of 24 blocks and more, where it fits; others take their share of 32, at least one.
    """
    if num_layers >= 24 and published.stop <= num_layers:
        return published
    start = min(round(published.start * num_layers / _PUBLISHED), num_layers - 1)
    return range(start, max(start + 1, round(published.stop * num_layers / _PUBLISHED)))


def within(name: str, chosen: range | None, published: range, num_layers: int) -> range:
    """What a field of this name means on a model: its own range, or the published one, scaled.

    Raises:
        ConfigError: for a range that leaves the model.
    """
    layers = chosen or scaled(published, num_layers)
    if layers.stop > num_layers:
        raise ConfigError(
            f"{name} leaves the model: got {layers}; expected blocks below {num_layers}. Leave {name} at None for the "
            "published range."
        )
    return layers


def with_maps(name: str, layers: Sequence[int], model: PreTrainedModel) -> tuple[int, ...]:
    """Those of some blocks that have attention maps: in most families all, in a hybrid some.

    Raises:
        ConfigError: if none of them has, naming those that have.
    """
    known = find_family(model).attention_modules(model)
    found = tuple(layer for layer in layers if layer in known)
    if not found:
        raise ConfigError(
            f"{name} without attention maps: got {layers} of {type(model).__name__}, whose other blocks have them; "
            f"expected one at least of {sorted(known)}. Choose among these."
        )
    return found
