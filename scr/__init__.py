"""Make vision-language models hallucinate less at inference time.

with scr.patch(model):
    model.generate(**inputs)
"""

from __future__ import annotations

import importlib.util as _util
from pathlib import Path as _Path


def _check_hooks() -> None:
    """Refuse a foreign `hooks` module, such as a user's own hooks.py next to their script."""
    spec = _util.find_spec("hooks")
    expected = _Path(__file__).resolve().parent.parent / "hooks" / "__init__.py"
    found = spec.origin if spec is not None else None
    if found is None or _Path(found).resolve() != expected:
        raise ImportError(
            f"another module is called `hooks`: found {found}; expected {expected}, which belongs to scr-vlm. "
            "Rename the other module, or run from another folder."
        )


_check_hooks()

from hooks import FAMILIES as _FAMILIES  # noqa: E402  the check above must come first
from hooks import ModelFamily  # noqa: E402

from . import contrast, credit, perturb, redistribution  # noqa: E402
from .adapters import Adapter, adapter, list_adapters, load_adapter, merge_adapter  # noqa: E402
from .calibration import calibrate_confidence  # noqa: E402
from .diagnostics import Diagnostics, diagnose  # noqa: E402
from .errors import (  # noqa: E402
    AdapterLoadError,
    AlreadyPatchedError,
    ConfigError,
    MissingPackageError,
    PromptLayoutError,
    SCRError,
    UnsupportedGenerationError,
    UnsupportedModelError,
)
from .methods import METHODS as _METHODS  # noqa: E402
from .methods import (  # noqa: E402
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
from .patching import Patch, patch  # noqa: E402
from .version import __version__  # noqa: E402


def list_methods() -> list[str]:
    """Names that `scr.patch` and `--method` take, in the order of the table."""
    return list(_METHODS)


def list_families() -> list[str]:
    """Names of the supported model families."""
    return list(_FAMILIES)


def get_family(name: str) -> ModelFamily:
    """The family called `name`.

    Raises:
        ConfigError: for an unknown name.
    """
    if name not in _FAMILIES:
        raise ConfigError(f"unknown family: got {name!r}; expected one of {list(_FAMILIES)}. Choose one of them.")
    return _FAMILIES[name]


__all__ = [
    "Adapter",
    "AdapterLoadError",
    "AlreadyPatchedError",
    "ConfigError",
    "Diagnostics",
    "DoLaConfig",
    "MethodConfig",
    "MethodEntry",
    "MissingPackageError",
    "ModelFamily",
    "Patch",
    "PlausibilityOnlyConfig",
    "PromptLayoutError",
    "PurifiedConfig",
    "PurifiedLogitsProcessor",
    "SCRConfig",
    "SCRError",
    "Trace",
    "UnsupportedGenerationError",
    "UnsupportedModelError",
    "VCDConfig",
    "YesShiftConfig",
    "__version__",
    "adapter",
    "calibrate_confidence",
    "contrast",
    "credit",
    "diagnose",
    "get_family",
    "get_method",
    "list_adapters",
    "list_families",
    "list_methods",
    "load_adapter",
    "merge_adapter",
    "patch",
    "perturb",
    "redistribution",
]
