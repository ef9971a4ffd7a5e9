"""Adapters, optional backbones: load, train, merge. peft is imported only where it is needed."""

from typing import TYPE_CHECKING

from .._hooks import on_demand

if TYPE_CHECKING:
    from .base import check_base
    from .card import plot_curve, push_adapter, read_record, write_card
    from .encoding import format_prompt
    from .load import Adapter, adapter, load_adapter, merge_adapter
    from .loop import Trained, train_adapter
    from .processes import Team, join_team
    from .recipe import Distillation, TrainingRecipe, load_recipe
    from .refusal import DENIAL, TEMPLATES, KnownImage, RefusalRow, refusal_rows, split_images
    from .rows import Prepared, Row, image_file_digest, prepare_data, read_rows, write_rows
    from .sources import ADAPTERS, IMAGES_FILE, AdapterEntry, AdapterSource, find_adapter, list_adapters, trained_images

__getattr__ = on_demand(
    __name__,
    {
        ".base": ("check_base",),
        ".card": (
            "plot_curve",
            "push_adapter",
            "read_record",
            "write_card",
        ),
        ".encoding": ("format_prompt",),
        ".load": (
            "Adapter",
            "adapter",
            "load_adapter",
            "merge_adapter",
        ),
        ".loop": (
            "Trained",
            "train_adapter",
        ),
        ".processes": (
            "Team",
            "join_team",
        ),
        ".recipe": (
            "Distillation",
            "TrainingRecipe",
            "load_recipe",
        ),
        ".refusal": (
            "DENIAL",
            "TEMPLATES",
            "KnownImage",
            "RefusalRow",
            "refusal_rows",
            "split_images",
        ),
        ".rows": (
            "Prepared",
            "Row",
            "image_file_digest",
            "prepare_data",
            "read_rows",
            "write_rows",
        ),
        ".sources": (
            "ADAPTERS",
            "IMAGES_FILE",
            "AdapterEntry",
            "AdapterSource",
            "find_adapter",
            "list_adapters",
            "trained_images",
        ),
    },
)

__all__ = [
    "ADAPTERS",
    "DENIAL",
    "IMAGES_FILE",
    "TEMPLATES",
    "Adapter",
    "AdapterEntry",
    "AdapterSource",
    "Distillation",
    "KnownImage",
    "Prepared",
    "RefusalRow",
    "Row",
    "Team",
    "Trained",
    "TrainingRecipe",
    "adapter",
    "check_base",
    "find_adapter",
    "format_prompt",
    "image_file_digest",
    "join_team",
    "list_adapters",
    "load_adapter",
    "load_recipe",
    "merge_adapter",
    "plot_curve",
    "prepare_data",
    "push_adapter",
    "read_record",
    "read_rows",
    "refusal_rows",
    "split_images",
    "train_adapter",
    "trained_images",
    "write_card",
    "write_rows",
]
