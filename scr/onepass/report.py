"""How far a predictor finds the sources that two passes find, on images that it has not seen, beside two floors."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigError
from ..methods.scr import SCRConfig
from .learning import Example
from .predictor import Predictor

Guess = Callable[[Example], Float[Tensor, "patches"] | None]


def held_out_images(images: Sequence[Path], share: float, seed: int) -> set[Path]:
    """Images that nothing is learnt from: a share of them, at least one, drawn by the seed.

    Raises:
        ConfigError: where none would be left to learn from.
    """
    count = max(1, round(share * len(images)))
    if count >= len(images):
        raise ConfigError(
            f"too few images: got {len(images)}, {count} of them held out; expected more. Give more images, or a "
            "smaller --held-out."
        )
    return set(random.Random(f"held out/{seed}").sample(sorted(images), count))


def overlap_report(
    predictor: Predictor, learnt: Sequence[Example], held_out: Sequence[Example], config: SCRConfig
) -> dict[str, Any]:
    """Per way to guess a map: the mean share of the K sources that two passes choose too, and of rank correlations.

    Args:
        predictor: the trained one.
        learnt: what it learnt from.
        held_out: what it is measured on.
        config: whose K and whose rules choose the sources.

    Returns:
        `maps`, `images`, `num_sources`, and `predicted`, `mean_map` and `random`, each `sources_shared` and
        `rank_correlation` over all patches. The mean map is that of the maps learnt from with the same grids; it is
        None where one has none.
    """
    generator = torch.Generator(device="cpu").manual_seed(0)
    means = _mean_maps(learnt)
    ways: dict[str, Guess] = {
        "predicted": lambda one: predictor.predict([one.inputs(predictor)])[0],
        "mean_map": lambda one: means.get(one.grids),
        "random": lambda one: torch.rand(len(one.attention), generator=generator, device="cpu"),
    }
    with torch.no_grad():
        measured = {name: _overlap(guess, held_out, config) for name, guess in ways.items()}
    images = len({one.image for one in held_out})
    return {"maps": len(held_out), "images": images, "num_sources": config.num_sources, **measured}


def sources_shared(one: Sequence[int], other: Sequence[int]) -> float:
    """Share of the sources in `other` that are in `one` too; 1 where there are none."""
    return len({*one} & {*other}) / len(other) if len(other) else 1.0


def rank_correlation(one: Float[Tensor, "patches"], other: Float[Tensor, "patches"]) -> float:
    """Spearman's: of ranks, equal values sharing theirs; 0 where all are equal."""
    ranks = torch.stack([_ranks(one), _ranks(other)])
    ranks = ranks - ranks.mean(dim=1, keepdim=True)
    lengths = ranks.norm(dim=1)
    return float((ranks[0] @ ranks[1]) / (lengths[0] * lengths[1])) if lengths.all() else 0.0


def _ranks(values: Float[Tensor, "patches"]) -> Float[Tensor, "patches"]:
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(dim=0).double()
    return (last - (counts - 1) / 2)[place]


def _overlap(guess: Guess, examples: Sequence[Example], config: SCRConfig) -> dict[str, float] | None:
    shares, ranks = [], []
    for example in examples:
        guessed = guess(example)
        if guessed is None:
            return None
        chosen, wanted = (config.plan(one, example.grids).sources for one in (guessed, example.attention))
        shares.append(sources_shared(chosen.tolist(), wanted.tolist()))
        ranks.append(rank_correlation(guessed, example.attention))
    return {"sources_shared": sum(shares) / len(shares), "rank_correlation": sum(ranks) / len(ranks)}


def _mean_maps(examples: Sequence[Example]) -> dict[Any, Float[Tensor, "patches"]]:
    grouped: dict[Any, list[Tensor]] = {}
    for one in examples:
        grouped.setdefault(one.grids, []).append(one.attention / one.attention.sum())
    return {grids: torch.stack(maps).mean(dim=0) for grids, maps in grouped.items()}
