"""The errors that reaching into a model can raise; `scr.errors` draws the whole tree."""


class SCRError(Exception):
    """Base of every error that this project raises on purpose."""


class UnsupportedModelError(SCRError, TypeError):
    """The model is of a family that we do not know, or lacks a part that we need."""


class PromptLayoutError(SCRError, ValueError):
    """The image tokens of a prompt do not fit the patch grid that the model's configuration promises."""


class UnsupportedGenerationError(SCRError, ValueError):
    """A way of generating under which an edit of the prefill cannot be right."""
