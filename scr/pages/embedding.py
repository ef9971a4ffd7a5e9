"""What a page that opens from disk is put together from: it holds its style, its script and its data itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from ..files import read_text

Shared = Literal["look.css", "veil.js", "said.js"]
"""What several pages have: colours and type, a trace over its picture, a text with its doubts."""


def shared(*names: Shared) -> str:
    """Parts that several pages have, one after the other.

    Raises:
        DataFileError: where it cannot be read.
    """
    return "".join(read_text(Path(__file__).with_name(name)) for name in names)


def script_json(value: Any) -> str:
    """JSON that may stand inside a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
