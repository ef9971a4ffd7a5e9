"""Collect the maps that two-pass SCR would take: what a predictor learns. A collection that was stopped goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from tqdm import tqdm

from .._hooks import PatchGrid
from ..errors import ConfigError, DataFileError
from ..files import json_text, parse_json, read_bytes, write_bytes
from ..methods.scr import SCRConfig
from .pairs import Pair, encode_pairs
from .watching import watch_maps

TARGETS_FILE = "targets.safetensors"
_SAVED_EVERY = 200
_HEADER = 8  # bytes of a safetensors file that say how long its header is


@dataclass
class Targets:
    """Maps of the first pairs of a collection, in their order.

    Attributes:
        asked: digest of each pair.
        maps: SCR's attention to each patch.
        grids: of each one's image.
    """

    asked: list[str] = field(default_factory=list)
    maps: list[Float[Tensor, "patches"]] = field(default_factory=list)
    grids: list[tuple[PatchGrid, ...]] = field(default_factory=list)


def collect_maps(
    model: Any,
    processor: Any,
    pairs: Sequence[Pair],
    config: SCRConfig,
    path: Path,
    made_from: Mapping[str, Any],
    *,
    batch_size: int = 8,
    show_progress: bool = False,
) -> Targets:
    """The map of each pair, from a file and from the model where the file ends.

    The file is replaced as a whole after every 200 maps: who is killed loses no more than these.

    Args:
        model: the model.
        processor: its processor.
        pairs: what is asked.
        config: of two-pass SCR.
        path: the file.
        made_from: what decides the maps beside the pairs, as JSON values; a file of other maps is refused.
        batch_size: prompts per forward.
        show_progress: a bar on standard error.

    Raises:
        ConfigError: for a file of other maps, or pairs that the model cannot take.
        DataFileError: for a file that cannot be read.
    """
    asked = [pair.digest for pair in pairs]
    targets = read_targets(path, made_from, asked) if path.exists() else Targets()
    saved = len(targets.maps)
    with tqdm(total=len(pairs), initial=min(saved, len(pairs)), desc="maps", disable=not show_progress) as bar:
        for start in range(saved, len(pairs), batch_size):
            batch = pairs[start : start + batch_size]
            watched = watch_maps(model, encode_pairs(processor, batch, model), config)
            if [image.row for image in watched.images] != list(range(len(batch))):
                raise ConfigError(
                    f"prompts without a map: got {len(watched.images)} images that text comes after in {len(batch)} "
                    f"prompts, of {batch[0].prompt[:40]!r} and others; expected one in each. Mend the chat template."
                )
            targets.asked += asked[start : start + batch_size]
            targets.maps += watched.attention
            targets.grids += [image.grids for image in watched.images]
            if len(targets.maps) - saved >= _SAVED_EVERY or len(targets.maps) == len(pairs):
                _write(path, targets, made_from)
                saved = len(targets.maps)
            bar.update(len(batch))
    count = len(pairs)
    return Targets(targets.asked[:count], targets.maps[:count], targets.grids[:count])


def read_targets(path: Path, made_from: Mapping[str, Any], asked: Sequence[str]) -> Targets:
    """What a collection has written.

    Args:
        path: the file.
        made_from: what it must have been made from.
        asked: digests of the pairs, of which it must hold the first, or all and more.

    Raises:
        ConfigError: for maps that were made from something else.
        DataFileError: for a file that cannot be read.
    """
    content = read_bytes(path)
    try:
        tensors = load(content)
        length = int.from_bytes(content[:_HEADER], "little")
        header = parse_json(content[_HEADER : _HEADER + length].decode(), path)
        card = parse_json(header["__metadata__"]["card"], path)
        maps = [tensors[str(number)] for number in range(len(tensors))]
        grids = [tuple(PatchGrid(*grid) for grid in one) for one in card["grids"]]
        found, there = dict(card["made_from"]), list(map(str, card["asked"]))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataFileError(
            f"maps cannot be read: got {path} ({type(error).__name__}: {error}); expected what a collection writes. "
            "Remove it, and collect them again."
        ) from error
    least = min(len(there), len(asked))
    found["pairs"] = there[:least]
    wanted = {**parse_json(json_text(made_from), path), "pairs": list(asked[:least])}
    if found != wanted:
        other = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        raise ConfigError(
            f"maps of another collection: got {path}, made with another {', '.join(other)}; expected the same. Give "
            "another --output, or remove the file."
        )
    return Targets(there, maps, grids)


def _write(path: Path, targets: Targets, made_from: Mapping[str, Any]) -> None:
    card = json_text({"made_from": made_from, "asked": targets.asked, "grids": targets.grids})
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {str(number): one.contiguous() for number, one in enumerate(targets.maps)}
    write_bytes(path, save(tensors, metadata={"card": card}))
