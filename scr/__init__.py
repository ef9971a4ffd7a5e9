"""Make vision-language models hallucinate less at inference time.

with scr.patch(model):
    model.generate(**inputs)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._hooks import on_demand as _on_demand
from .version import __version__

if TYPE_CHECKING:
    from . import contrast, credit, perturb, redistribution
    from ._hooks import ModelFamily
    from .adapters import Adapter, adapter, list_adapters, load_adapter, merge_adapter
    from .calibration import calibrate_confidence
    from .describing.describe import describe
    from .describing.description import Description, Doubt, Token
    from .diagnostics import Diagnostics, diagnose
    from .errors import (
        AdapterLoadError,
        AlreadyPatchedError,
        ConfigError,
        DataFileError,
        MissingPackageError,
        ModelLoadError,
        NotFiniteError,
        PromptLayoutError,
        SCRError,
        UnsupportedGenerationError,
        UnsupportedModelError,
        UnusedPatchWarning,
    )
    from .methods import (
        DoLaConfig,
        MethodConfig,
        MethodEntry,
        PlausibilityOnlyConfig,
        PurifiedConfig,
        PurifiedLogitsProcessor,
        SCRConfig,
        Trace,
        VCDConfig,
        YesShiftConfig,
        get_method,
    )
    from .patching.baseline import BASELINE
    from .patching.combination import CombinedConfig, check_beams, fields_by_part, method_parts
    from .patching.patch import Patch
    from .patching.prepare import MethodName, patch
    from .patching.registry import family_of, get_family, list_families, list_methods

__getattr__ = _on_demand(__name__)
