"""Steering vectors in a file: safetensors with a card, in its header, of what they were made from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import safetensors.torch
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..adapters.sources import names_folder
from ..errors import ConfigError, DataFileError
from ..fields import SOME, Count, Fields, Index, Share
from ..files import json_text, parse_json, read_bytes, write_bytes

_CARD = "card"
_AT = "@sha256:"
RANDOM = "random"
"""In place of a file: directions drawn at random."""


@dataclass(frozen=True, kw_only=True)
class Card(Fields):
    """What vectors were made from.

    Attributes:
        method: the method that they are for.
        base: name of the model: a hub id, a folder, or "lab/...".
        base_revision: its commit, or the digest of its folder; None where it has neither.
        data_sha256: digest of the annotations.
        images: digest of each image file, as `scr.adapters.image_file_digest` gives it.
        demonstrations: how many pairs of captions.
        rank: principal directions within which shifts are averaged.
        trials: masked copies of each image.
        masked: share of an image's squares that each of them lacks.
        seed: of the draws.
    """

    method: str
    base: str
    base_revision: str | None
    data_sha256: str
    images: Annotated[tuple[str, ...], SOME]
    demonstrations: Count
    rank: Count
    trials: Count
    masked: Share
    seed: Index


@dataclass(frozen=True, kw_only=True, eq=False)
class SteeringVectors:
    """One vector for each block of a model's decoder, and for each of its vision tower.

    Attributes:
        name: the file.
        digest: sixteen hexadecimal digits of the file's SHA-256.
        card: what they were made from.
        text: for what the decoder's MLPs put out.
        vision: for those of the vision tower; None if they were not made.
    """

    kind: ClassVar[str] = "steering vectors"

    name: str
    digest: str
    card: Card
    text: Float[Tensor, "blocks dim"]
    vision: Float[Tensor, "vision_blocks vision_dim"] | None

    @property
    def base(self) -> str:
        """The model that they were made on."""
        return self.card.base

    @property
    def base_revision(self) -> str | None:
        """Its state."""
        return self.card.base_revision

    @property
    def base_is_folder(self) -> bool:
        """Whether its name is that of a folder."""
        return names_folder(self.base)

    @property
    def recorded(self) -> str:
        """What records call them: the file and its digest."""
        return f"{self.name}{_AT}{self.digest}"


def find_vectors(name: str, method: str) -> SteeringVectors | None:
    """The vectors that a configuration names; None for random ones.

    Args:
        name: a file, with or without "@sha256:" and its digest; or `RANDOM`.
        method: the method that they are to be for.

    Raises:
        DataFileError, ConfigError: as `read_vectors`.
        ConfigError: for a file of another digest.
    """
    if name == RANDOM:
        return None
    path, _, digest = name.partition(_AT)
    found = read_vectors(Path(path), method)
    if digest not in ("", found.digest):
        raise ConfigError(
            f"other steering vectors: got {path} of digest {found.digest}; expected {digest}. Give the file that was "
            f"meant, or leave {_AT!r} and what follows out."
        )
    return found


def vectors_of(found: SteeringVectors | None, part: str, blocks: int, width: int) -> Float[Tensor, "blocks width"]:
    """The vectors for a part of a model, "text" or "vision", checked against it.

    Raises:
        ConfigError: if there are none, or of another number or width.
    """
    if found is None:
        generator = torch.Generator(device="cpu").manual_seed(0)
        return torch.randn(blocks, width, generator=generator, dtype=torch.float32, device="cpu")
    vectors: Tensor | None = getattr(found, part)
    if vectors is None or vectors.shape != (blocks, width):
        got = "none" if vectors is None else f"{vectors.shape[0]} of width {vectors.shape[1]}"
        raise ConfigError(
            f"steering vectors do not fit the model: got {got} in {found.name} for its {part} part; expected {blocks} "
            f"of width {width}. Make them on this model, or set {part}=0."
        )
    return vectors


def write_vectors(path: Path, card: Card, text: Tensor, vision: Tensor | None) -> None:
    """Replace a file by vectors and their card.

    Raises:
        OSError: where it cannot be written; what was there is there still.
    """
    tensors = {"text": text} if vision is None else {"text": text, "vision": vision}
    stored = {name: one.detach().float().cpu().contiguous() for name, one in tensors.items()}
    write_bytes(path, safetensors.torch.save(stored, metadata={_CARD: json_text(card.to_dict())}))


def read_vectors(path: Path, method: str) -> SteeringVectors:
    """The vectors in a file, checked.

    Args:
        path: the file.
        method: the method that they are to be for.

    Raises:
        DataFileError: for a file that cannot be read, or is cut off, or of another kind.
        ConfigError: for vectors of another method.
    """
    digest = hashlib.sha256(read_bytes(path)).hexdigest()[:16]
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in [*file.keys()]}
    except (SafetensorError, OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if _CARD not in header or "text" not in tensors or not {"text", "vision"}.issuperset(tensors):
        raise _unreadable(path, f"{sorted(tensors)[:5]} with {sorted(header)} in its header")
    try:
        card = Card.from_dict(parse_json(header[_CARD], f"the card of {path}", once=True))
    except ConfigError as error:
        raise _unreadable(path, error) from error
    for name, one in tensors.items():
        if one.ndim != 2 or not one.is_floating_point() or not bool(one.isfinite().all()):
            raise _unreadable(path, f"{name} of shape {list(one.shape)} that are no finite vectors")
    if card.method != method:
        raise ConfigError(
            f"steering vectors of another method: got {path}, made for {card.method!r}; expected those of {method!r}. "
            f"Make them: `python -m benchmarks.calibrate steering --method {method}`."
        )
    return SteeringVectors(name=str(path), digest=digest, card=card, text=tensors["text"], vision=tensors.get("vision"))


def _unreadable(path: Path, why: object) -> DataFileError:
    return DataFileError(
        f"no steering vectors: got {path} ({' '.join(str(why).split())}); expected what `python -m "
        "benchmarks.calibrate steering` writes. Make them again."
    )
