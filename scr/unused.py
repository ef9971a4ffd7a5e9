"""Say so where what was made for a model is dropped without having been put on it."""

from __future__ import annotations

import warnings
import weakref

from .errors import UnusedPatchWarning


def warn_unless_used(handle: object, kind: str, name: str) -> weakref.finalize:
    """Warn when a handle is dropped, unless what is returned was detached before.

    Of a handle that was used nothing runs at its end, where Python would swallow an interrupt; nor of one that lives to
    the end of the program.

    Args:
        handle: what has `install()` and `remove()`.
        kind: of `patch` and `adapter`, by which it was made.
        name: what it is called.
    """
    finalizer = weakref.finalize(handle, _warn, kind, name)
    finalizer.atexit = False
    return finalizer


def _warn(kind: str, name: str) -> None:
    warnings.warn(
        f"the {kind} {name!r} was never put on its model: got scr.{kind}(...) alone; expected "
        f"`with scr.{kind}(model{', ...' if kind == 'adapter' else ''}): ...`. Use `with`, or `install()` and "
        "`remove()`.",
        UnusedPatchWarning,
        stacklevel=3,  # above the finalizer, where it was dropped
    )
