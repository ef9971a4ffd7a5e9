"""Every exception that this project raises on purpose. Each is also the builtin that one would expect.

SCRError
 ├─ ConfigError (ValueError)                  a value of a method, task or command is out of range
 │   └─ DataFileError                         a file from outside cannot be read as what it should be
 ├─ UnsupportedModelError (TypeError)         a model family that we do not know, or a part of it is missing
 ├─ PromptLayoutError (ValueError)            image tokens do not fit the patch grid
 ├─ UnsupportedGenerationError (ValueError)   a way of generating that an edited prefill cannot survive
 ├─ NotFiniteError (ArithmeticError)         attention, activations or logits that are NaN or infinite
 ├─ AlreadyPatchedError (RuntimeError)        the same method, or a second adapter, on one model
 ├─ AdapterLoadError (OSError)                an adapter was not found, or could not be read
 ├─ ModelLoadError (OSError)                  a model was not found, or could not be loaded whole
 └─ MissingPackageError (ImportError)         an optional package is needed, and not installed

One warning has a name: UnusedPatchWarning (UserWarning), a patch or an adapter that was made and never put on its
model. What an error about an unknown name says last is `suggestion`'s.
"""

from ._hooks import (
    NotFiniteError,
    PromptLayoutError,
    SCRError,
    UnsupportedGenerationError,
    UnsupportedModelError,
    suggestion,
)


class ConfigError(SCRError, ValueError):
    """A configuration value is unknown or out of range."""


class DataFileError(ConfigError):
    """A file that somebody else wrote cannot be read, or is not what it should be."""


class AlreadyPatchedError(SCRError, RuntimeError):
    """The method is on this model already, or an adapter is."""


class AdapterLoadError(SCRError, OSError):
    """An adapter was not found, or could not be read."""


class ModelLoadError(SCRError, OSError):
    """A model was not found, or could not be loaded whole."""


class MissingPackageError(SCRError, ImportError):
    """An optional package is needed, and not installed; the message has the line that installs it."""


class UnusedPatchWarning(UserWarning):
    """A patch or an adapter was dropped without having been put on its model, which so ran without it."""


__all__ = [
    "AdapterLoadError",
    "AlreadyPatchedError",
    "ConfigError",
    "DataFileError",
    "MissingPackageError",
    "ModelLoadError",
    "NotFiniteError",
    "PromptLayoutError",
    "SCRError",
    "UnsupportedGenerationError",
    "UnsupportedModelError",
    "UnusedPatchWarning",
    "suggestion",
]
