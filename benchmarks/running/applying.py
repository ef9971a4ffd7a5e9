"""An adapter and, inside it, a method on a loaded model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from transformers import PreTrainedModel

import scr
from scr.adapters import AdapterSource

from .methods import Configs, patched


@contextlib.contextmanager
def applied(
    model: PreTrainedModel, method: str, configs: Configs, adapter: AdapterSource | None = None
) -> Iterator[scr.Patch]:
    """Put both on the model inside the `with`.

    Args:
        model: the model.
        method: the method, "none" for none.
        configs: the fields of each of its parts; see `benchmarks.running.methods.by_part`.
        adapter: the adapter; None for none.
    """
    with (
        contextlib.nullcontext() if adapter is None else scr.adapter(model, adapter),
        patched(model, method, configs) as patch,
    ):
        yield patch
