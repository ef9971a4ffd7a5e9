"""A table of photos: which columns it may have, and what a row means. No torch."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError

# Arrow's names of types, which Ray tells; a column of null has no values.
_TEXT = {"string", "large_string", "string_view", "null"}
_BYTES = {"binary", "large_binary", "binary_view"}


def check_columns(schema: Any, table: Path) -> None:
    """Refuse a table whose columns `item` cannot read.

    Args:
        schema: `names` and `types`, Arrow's; None of a table without any.
        table: what it is called.

    Raises:
        ConfigError: for one that names no photos, or holds something else in a column.
    """
    kinds = dict(zip(schema.names, schema.types, strict=True)) if schema else {}
    if not {"image", "path"} & kinds.keys():
        raise ConfigError(
            f"a table of something else: got {table} with {sorted(kinds)}; expected a column image or path. Rename one."
        )
    expected = {"image": "text, or a struct of bytes and path", "path": "text", "bytes": "bytes, or text in base64"}
    for name in expected.keys() & kinds.keys():
        if not _readable(name, kinds[name]):
            raise ConfigError(
                f"a column of something else: got {name} of {kinds[name]} in {table}; expected {expected[name]}. "
                "Convert or rename it."
            )


def _readable(column: str, kind: Any) -> bool:
    """Whether `item` reads a column of that type, one of Arrow's."""
    if str(kind).startswith("dictionary<"):
        kind = kind.value_type
    if column == "image" and str(kind).startswith("struct<"):
        fields = {field.name: field.type for field in kind if field.name in ("bytes", "path")}
        return bool(fields) and all(_readable(name, one) for name, one in fields.items())
    return str(kind) in (_TEXT | _BYTES if column == "bytes" else _TEXT)


def item(row: Mapping[str, Any], place: str) -> dict[str, Any]:
    """What a row means.

    Args:
        row: of a table that `check_columns` takes.
        place: the folder that its paths start from.

    Returns:
        `image`, what the photo is called, empty where the row does not say it; and either `bytes`, its file, where the
        table holds it, and `digest`, the SHA-256 of that; or `path`, where it lies. The others are empty.
    """
    image, path, content = (row.get(name) for name in ("image", "path", "bytes"))
    if isinstance(image, Mapping):
        content = image.get("bytes") or content
        image = image.get("path")
    if isinstance(content, str):
        content = _decoded(content)
    name, path = image or path or "", path or image or ""
    if not content:
        return {"image": name, "path": os.path.join(place, path), "bytes": b"", "digest": ""}
    return {"image": name, "path": "", "bytes": content, "digest": hashlib.sha256(content).hexdigest()}


def _decoded(text: str) -> bytes:
    try:
        decoded = base64.b64decode(text)
    except ValueError:
        decoded = b""
    # What is no base64 is no picture, as its row will say: a broken one stops none of the others.
    return decoded or text.encode()
