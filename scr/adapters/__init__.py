"""Adapters, optional backbones: load, train, merge. peft is imported only where it is needed."""

from .load import Adapter, adapter, load_adapter, merge_adapter
from .sources import ADAPTERS, AdapterEntry, AdapterSource, find_adapter, list_adapters

__all__ = [
    "ADAPTERS",
    "Adapter",
    "AdapterEntry",
    "AdapterSource",
    "adapter",
    "find_adapter",
    "list_adapters",
    "load_adapter",
    "merge_adapter",
]
