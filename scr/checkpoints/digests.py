"""What names a state of a model: the hub's commit, or a digest of a folder's files."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

SETTINGS_FILE = "scr.json"
# What can change an answer: weights, configurations, tokenizer, template. A model card or a curve cannot.
_MODEL_FILES = (".safetensors", ".bin", ".json", ".model", ".txt", ".jinja")
_DIGEST, _COMMIT = re.compile(r"sha256:.*"), re.compile(r"[0-9a-f]{40}")


def folder_digest(folder: Path) -> str:
    """Digest of the files of a checkpoint that can change an answer: `sha256:` and 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in _MODEL_FILES and path.name != SETTINGS_FILE:
            with path.open("rb") as file:
                digest.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def is_digest(revision: str | None) -> bool:
    """Whether it is what `folder_digest` gives."""
    return revision is not None and _DIGEST.fullmatch(revision) is not None


def is_commit(revision: str | None) -> bool:
    """Whether it is a commit of the hub, and no branch, which is another state every day."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None
