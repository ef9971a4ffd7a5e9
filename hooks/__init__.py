"""Reach into a model: read attention, edit the residual stream, and put everything back.

Knows modules and tensors; knows no method and no benchmark.
"""

from typing import TYPE_CHECKING

from .on_demand import on_demand

if TYPE_CHECKING:
    from .compat import prompt_positions
    from .compiled import unwrap
    from .digests import image_digest, pixel_digests
    from .doubled import DoubledLoop, why_not_doubled
    from .encoding import PIXELS, encode_images
    from .errors import (
        NotFiniteError,
        PromptLayoutError,
        SCRError,
        UnsupportedGenerationError,
        UnsupportedModelError,
        suggestion,
    )
    from .families import FAMILIES, ImagePatches, ModelFamily, PatchGrid, find_family
    from .forks import INSTALLING
    from .generation import (
        GenerateCall,
        beside_generate,
        current_calls,
        is_beside,
        outside_generate,
        refuse_assistance,
        watch_generate,
    )
    from .interrupts import uninterrupted
    from .placed import Placed
    from .prefill import PrefillDispatcher, dispatcher
    from .queries import rows_with_images, visual_input
    from .residual import edit_tokens, hidden_of, with_hidden
    from .running import when_idle
    from .sessions import Diagnosis, PrefillMethod, PrefillSession
    from .stack import HookStack

__getattr__ = on_demand(
    __name__,
    {
        ".compat": ("prompt_positions",),
        ".compiled": ("unwrap",),
        ".digests": ("image_digest", "pixel_digests"),
        ".doubled": ("DoubledLoop", "why_not_doubled"),
        ".encoding": ("PIXELS", "encode_images"),
        ".errors": (
            "NotFiniteError",
            "PromptLayoutError",
            "SCRError",
            "UnsupportedGenerationError",
            "UnsupportedModelError",
            "suggestion",
        ),
        ".families": ("FAMILIES", "ImagePatches", "ModelFamily", "PatchGrid", "find_family"),
        ".forks": ("INSTALLING",),
        ".generation": (
            "GenerateCall",
            "beside_generate",
            "current_calls",
            "is_beside",
            "outside_generate",
            "refuse_assistance",
            "watch_generate",
        ),
        ".interrupts": ("uninterrupted",),
        ".placed": ("Placed",),
        ".prefill": ("PrefillDispatcher", "dispatcher"),
        ".queries": ("rows_with_images", "visual_input"),
        ".residual": ("edit_tokens", "hidden_of", "with_hidden"),
        ".running": ("when_idle",),
        ".sessions": ("Diagnosis", "PrefillMethod", "PrefillSession"),
        ".stack": ("HookStack",),
    },
)

__all__ = [
    "FAMILIES",
    "INSTALLING",
    "PIXELS",
    "Diagnosis",
    "DoubledLoop",
    "GenerateCall",
    "HookStack",
    "ImagePatches",
    "ModelFamily",
    "NotFiniteError",
    "PatchGrid",
    "Placed",
    "PrefillDispatcher",
    "PrefillMethod",
    "PrefillSession",
    "PromptLayoutError",
    "SCRError",
    "UnsupportedGenerationError",
    "UnsupportedModelError",
    "beside_generate",
    "current_calls",
    "dispatcher",
    "edit_tokens",
    "encode_images",
    "find_family",
    "hidden_of",
    "image_digest",
    "is_beside",
    "on_demand",
    "outside_generate",
    "pixel_digests",
    "prompt_positions",
    "refuse_assistance",
    "rows_with_images",
    "suggestion",
    "uninterrupted",
    "unwrap",
    "visual_input",
    "watch_generate",
    "when_idle",
    "why_not_doubled",
    "with_hidden",
]
