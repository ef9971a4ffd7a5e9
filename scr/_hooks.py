"""The package `hooks` that lies beside `scr`. Everything in scr imports hooks from here: see `scr.beside`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .beside import beside

if TYPE_CHECKING:
    from hooks import *  # noqa: F403

# Where a user has hooks of their own, ours has this module's name.
sys.modules[__name__] = beside("hooks")
