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

__getattr__ = on_demand(__name__)
