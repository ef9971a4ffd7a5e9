"""Reach into a model: read attention, edit the residual stream, and put everything back.

Knows modules and tensors; knows no method and no benchmark.
"""

from .compat import prompt_positions
from .compiled import unwrap
from .errors import PromptLayoutError, SCRError, UnsupportedGenerationError, UnsupportedModelError, suggestion
from .families import FAMILIES, ImagePatches, ModelFamily, PatchGrid, find_family
from .placed import Placed
from .prefill import Diagnosis, PrefillDispatcher, PrefillMethod, PrefillSession, dispatcher
from .residual import edit_tokens, hidden_of, with_hidden
from .stack import HookStack

__all__ = [
    "FAMILIES",
    "Diagnosis",
    "HookStack",
    "ImagePatches",
    "ModelFamily",
    "PatchGrid",
    "Placed",
    "PrefillDispatcher",
    "PrefillMethod",
    "PrefillSession",
    "PromptLayoutError",
    "SCRError",
    "UnsupportedGenerationError",
    "UnsupportedModelError",
    "dispatcher",
    "edit_tokens",
    "find_family",
    "hidden_of",
    "prompt_positions",
    "suggestion",
    "unwrap",
    "with_hidden",
]
