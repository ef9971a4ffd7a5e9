"""A `custom_generate` repository: `custom_generate/generate.py`, its requirements, and a card."""

from __future__ import annotations

import pprint
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from ..errors import ConfigError
from ..files import read_bytes, write_bytes
from ..methods import get_method
from ..version import __version__
from .card import card
from .numbers import Measured
from .travelling import Published

_GENERATE = '''"""{what}.

model.generate(**inputs, custom_generate="THIS REPOSITORY", trust_remote_code=True)
"""

from importlib import import_module

METHOD = {method!r}
FIELDS = {fields}


def generate(model, **arguments):
    """As `model.generate(**arguments)`, under the method."""
    # No `import scr`: where it is missing, transformers would name a package of that name. It is called scr-vlm.
    scr = import_module("scr")
    with scr.patch(model, METHOD, **FIELDS):
        return model.generate(**arguments)
'''

# With the errors of whatever client the hub's package has.
_REFUSALS: tuple[type[Exception], ...] = (HFValidationError, OSError, *cast(Any, HfHubHTTPError).__bases__)


def write_repository(folder: Path, what: Published, numbers: Sequence[Measured] = ()) -> None:
    """Write the repository.

    Args:
        folder: where; it is made, is empty, or holds just what would be written.
        what: the method.
        numbers: what was measured of it.

    Raises:
        ConfigError: for a folder that holds something else.
        OSError: where files cannot be written.
    """
    summary = " and ".join(get_method(part).summary for part in what.configs)
    source = pprint.pformat(dict(what.fields), width=100, sort_dicts=False)
    program = _GENERATE.format(what=f"{what.method}: {summary}", method=what.method, fields=source)
    texts = {
        folder / "custom_generate" / "generate.py": program,
        folder / "custom_generate" / "requirements.txt": f"scr-vlm>={__version__}\n",
        folder / "README.md": card(what, numbers),
    }
    files = {path: text.encode("utf-8", "backslashreplace") for path, text in texts.items()}
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, content)
        return
    there = {path for path in folder.rglob("*") if not path.is_dir()}
    # A push that failed is tried again with what it had written.
    if there != set(files) or any(read_bytes(path) != content for path, content in files.items()):
        raise ConfigError(
            f"something else lies there: got {folder}; expected a new folder, an empty one, or one that holds just "
            "this method with these fields and measurements. Choose another --output."
        )


def push(folder: Path, name: str, *, private: bool = False) -> str:
    """Upload a repository to the hub; what is there under the same paths is replaced.

    Args:
        folder: what `write_repository` wrote.
        name: of the hub's repository, "OWNER/NAME"; it is made if it is not there.
        private: whether it is made a private one.

    Returns:
        Where it is.

    Raises:
        ConfigError: if the hub refuses, or cannot be reached.
    """
    hub = HfApi()
    try:
        place = hub.create_repo(name, private=private, exist_ok=True)
        hub.upload_folder(repo_id=place.repo_id, folder_path=folder, commit_message="Written by scr.publish")
    except _REFUSALS as error:
        raise ConfigError(
            f"the hub has not taken it: got {' '.join(str(error).split())[:300]} for {name!r}; expected OWNER/NAME of "
            "a repository that may be written. Log in by `hf auth login`, and check the name and the connection."
        ) from error
    return str(place)
