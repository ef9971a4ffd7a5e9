"""Reach into a model: read attention, edit the residual stream, and put everything back.

Knows modules and tensors; knows no method and no benchmark.
"""

from typing import TYPE_CHECKING

from .lazy import on_demand as _on_demand

if TYPE_CHECKING:
    from .compat import after_step, prompt_positions
    from .encoding import PIXELS, encode_images
    from .errors import (
        NotFiniteError,
        PromptLayoutError,
        SCRError,
        UnsupportedGenerationError,
        UnsupportedModelError,
        suggestion,
    )
    from .families import FAMILIES, ImagePatches, ModelFamily, PatchGrid, find_family, map_family
    from .generation import (
        GenerateCall,
        beside_generate,
        current_calls,
        is_beside,
        outside_generate,
        refuse_assistance,
        watch_generate,
    )
    from .installing.compiled import unwrap
    from .installing.forks import INSTALLING
    from .installing.interrupts import uninterrupted
    from .installing.running import when_idle
    from .installing.stack import HookStack
    from .joined import Begun, JoinedLoop, OtherBranch, why_not_joined
    from .lazy import on_demand
    from .precision import exact
    from .prefills.attention import is_reading
    from .prefills.cache import fork
    from .prefills.digests import image_digest, pixel_digests
    from .prefills.placed import Placed
    from .prefills.prefill import PrefillDispatcher, dispatcher
    from .prefills.queries import image_tokens, real_tokens, rows_with_images, visual_input
    from .prefills.sessions import Diagnosis, PrefillMethod, PrefillSession, Readers
    from .residual import edit_tokens, hidden_of, with_hidden
    from .steering.sites import after_attention, after_block, after_mlp
    from .steering.states import last_states, vision_states
    from .steering.steps import StepHooks
    from .steering.vectors import turn
    from .taps.layer import LayerAttention
    from .taps.tapping import Attending, AttentionPlan, attending, blocks_seen, require_seen, tap_attention

__getattr__ = _on_demand(__name__)
