"""Whether an adapter, or what else was learnt, is for the model that it is meant for, by name and by state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol

from ..checkpoints.digests import folder_digest, is_commit, is_digest
from ..checkpoints.named import named_folder
from ..errors import ConfigError


class Learnt(Protocol):
    """What was learnt on a model.

    Attributes:
        kind: what errors call it, such as "adapter".
        name: as the user gave it.
        base: the model's name; None where it does not say.
        base_revision: its commit, or the digest of its folder; likewise.
        base_is_folder: whether the name is that of a folder, here or elsewhere, which may hold any model.
    """

    kind: ClassVar[str]

    @property
    def name(self) -> str: ...
    @property
    def base(self) -> str | None: ...
    @property
    def base_revision(self) -> str | None: ...
    @property
    def base_is_folder(self) -> bool: ...


def check_base(source: Learnt, name: str, revision: str | Callable[[], str | None] | None) -> None:
    """Refuse what was learnt on another model, or on another state of this one.

    Names are compared where both are names: a folder may hold a copy of any model. States are compared where it says
    which it was trained on. What neither says, the shapes must.

    Args:
        source: the adapter, or what else it is.
        name: the model's: a hub id, a name such as `lab/llava`, a folder; "" for one that was never loaded.
        revision: its commit, or the digest of its folder; None where it has neither. A function is called only if it
            must be known, since a digest takes time.

    Raises:
        ConfigError: if it is.
    """
    base, state = source.base or "", source.base_revision
    if not is_digest(state) and (folder := named_folder("model", base)) is not None:
        state = folder_digest(folder)
    by_name = bool(base and name) and not (source.base_is_folder or Path(name).exists())
    if by_name and base.casefold() != name.casefold():
        raise ConfigError(
            f"{source.kind} of another model: got {source.name!r}, trained on {base!r}, for {name!r}; expected "
            f"one that was trained on {name!r}. Load {base!r}, or another {source.kind}."
        )
    # A commit says nothing of a copy in a folder.
    if not is_digest(state) and not (by_name and is_commit(state)):
        return
    found = revision() if callable(revision) else revision
    if found not in (None, state):
        raise ConfigError(
            f"{source.kind} of another model, or of another state of the model: got {source.name!r}, trained on "
            f"{base!r} at {_short(state)}, for {name!r} at {_short(found)}; expected the same. Load the model that it "
            f"was trained on, or make the {source.kind} again."
        )


def check_base_of(model: Any, source: Learnt) -> None:
    """`check_base` for a model in memory, by where it was loaded from.

    Raises:
        ConfigError: as there.
    """
    name = str(model.name_or_path or "")
    folder = Path(name)

    def revision() -> str | None:
        if name and folder.is_dir():
            return folder_digest(folder)
        commit: str | None = getattr(model.config, "_commit_hash", None)
        return commit

    check_base(source, name, revision)


def _short(revision: str | None) -> str:
    return str(revision)[:20]
