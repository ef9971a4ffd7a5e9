"""Methods' settings that a checkpoint comes with, in `scr.json` beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..files import read_json
from .digests import SETTINGS_FILE


def settings_beside(folder: Path) -> dict[str, Any]:
    """The content of a checkpoint's `scr.json`, whose `settings` are fields of methods that take them; empty if none.

    Raises:
        ConfigError: if it is of another form.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return {}
    content = read_json(path)
    settings = content.get("settings") if isinstance(content, dict) else None
    if not isinstance(settings, dict):
        raise ConfigError(
            f'settings of another form: got {path}; expected {{"settings": {{...}}, ...}}. Mend or remove the file.'
        )
    return content
