"""Vectors that a method adds at every call, made once from a data set's own captions."""

from __future__ import annotations

from pathlib import Path

import scr
from scr import ConfigError
from scr.adapters import image_file_digest
from scr.perturb import PatchMask
from scr.steering import Card, write_vectors

from ..asking.models import find_model, load_model
from ..running.plan import RunConfig, open_data
from ..tasks import load_task
from ..tasks.coco import CocoData
from ..tasks.demonstrations import demonstrations


def make_vectors(
    config: RunConfig, method: str, output: Path, *, number: int, rank: int, trials: int, masked: float
) -> Card:
    """Make a method's vectors and write them with a card.

    Args:
        config: of the model, the seed, the data, and a task about captions, whose layout they have.
        method: a name of `scr.list_methods()`.
        output: the file.
        number: of images, each of which gives one pair of captions.
        rank: principal directions within which shifts are averaged.
        trials: masked copies of each image.
        masked: share of an image's squares that each of them lacks.

    Returns:
        The card.

    Raises:
        ConfigError: for a method without vectors, an output that is a folder, or data without captions.
    """
    calibrate = scr.get_method(method).method.calibrate
    if calibrate is None:
        able = [name for name in scr.list_methods() if scr.get_method(name).method.calibrate is not None]
        raise ConfigError(
            f"a method without vectors: got {method!r}; expected one of {able}. It needs no calibration of this kind."
        )
    if output.is_dir():
        raise ConfigError(f"no file: got --output {output}, a folder; expected a file. Give its name, too.")
    source = find_model(config.model, config.revision)
    data = open_data(config, source, load_task(config.tasks[0]))
    if not isinstance(data, CocoData) or not data.has_captions:
        raise ConfigError(
            f"no captions: got split {data.split!r} without reference captions; expected "
            "annotations/captions_<split>.json. Give another --data-dir or --split."
        )
    pairs = demonstrations(data, number, config.seed)
    loaded = load_model(source, dtype=config.dtype, device=config.device)
    mask = PatchMask(share=masked, seed=config.seed)
    vectors = calibrate(loaded.model, loaded.processor, pairs, mask, trials, rank)
    card = Card(
        method=method,
        base=source.name,
        base_revision=source.revision,
        data_sha256=data.sha256,
        images=tuple(image_file_digest(one.image) for one in pairs),
        demonstrations=len(pairs),
        rank=rank,
        trials=trials,
        masked=masked,
        seed=config.seed,
    )
    write_vectors(output, card, vectors["text"], vectors.get("vision"))
    return card
