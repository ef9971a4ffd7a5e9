"""Teach a predictor the maps that were collected."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from .._hooks import PatchGrid
from .card import PredictorCard
from .collecting import Targets
from .pairs import Pair, encode_pairs
from .predictor import Predictor, text_mean
from .watching import watch_states

_LEAST = 1e-3
"""Of the mean attention to a picture's patches: less than that share of it counts as that, since 0 has no logarithm."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a predictor is trained; AdamW with one cycle of the learning rate.

    Attributes:
        text: whether it reads the mean of the text's states.
        epochs: passes over the maps.
        learning_rate: the highest.
        weight_decay: of AdamW.
        maps_per_step: whose patches are one batch.
        seed: of the weights, the projection and the order.
    """

    text: bool = False
    epochs: int = 15
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    maps_per_step: int = 16
    seed: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Example:
    """One map, and what a predictor may know of its prompt.

    Attributes:
        image: the picture's file.
        patches: projected layer-0 states of its patches, in float16; shared by all prompts about it.
        text: projected mean of the text's, of a predictor that reads it.
        attention: SCR's map.
        grids: of the image.
    """

    image: Path
    patches: Float[Tensor, "patches states"]
    text: Float[Tensor, "states"] | None
    attention: Float[Tensor, "patches"]
    grids: tuple[PatchGrid, ...]

    def inputs(self, predictor: Predictor) -> Float[Tensor, "patches inputs"]:
        """What the predictor reads."""
        return predictor.inputs(self.patches.float(), self.grids, self.text)

    def logarithm(self) -> Float[Tensor, "patches"]:
        """Of its attention, with a mean of 0."""
        logarithm = self.attention.clamp(min=_LEAST * float(self.attention.mean())).log()
        return logarithm - logarithm.mean()


def new_predictor(model: Any, recipe: Recipe, spread: float, made_from: Mapping[str, Any]) -> Predictor:
    """A predictor for a model, with random weights of the recipe's seed."""
    card = PredictorCard(
        model_type=model.config.model_type,
        width=model.config.get_text_config().hidden_size,
        text=recipe.text,
        spread=spread,
        made_from=made_from,
    )
    return Predictor(card, recipe.seed)


def spread_of(maps: Sequence[Float[Tensor, "patches"]]) -> float:
    """Deviation of the logarithm of attention over a picture's patches."""
    blank = torch.zeros(0, 0, device="cpu")
    found = [Example(image=Path(), patches=blank, text=None, attention=one, grids=()).logarithm() for one in maps]
    return max(float(torch.cat(found).square().mean().sqrt()), torch.finfo(torch.float32).tiny)


def make_examples(
    model: Any,
    processor: Any,
    predictor: Predictor,
    pairs: Sequence[Pair],
    targets: Targets,
    *,
    batch_size: int = 8,
    show_progress: bool = False,
) -> list[Example]:
    """Look at each picture once more, and with a predictor that reads text at each prompt, without the decoder."""
    wanted = list(pairs) if predictor.card.text else list({pair.image: pair for pair in pairs}.values())
    patches: dict[Path, Tensor] = {}
    texts: dict[Pair, Tensor | None] = {}
    for batch in tqdm(list(_batches(wanted, batch_size)), desc="states", disable=not show_progress):
        watched = watch_states(model, encode_pairs(processor, batch, model))
        for image, pair in zip(watched.images, batch, strict=True):
            embeds = watched.embeds[image.row].cpu()
            patches.setdefault(pair.image, predictor.project(embeds[image.positions]).half())
            texts[pair] = text_mean(predictor, image, embeds)
    return [
        Example(image=pair.image, patches=patches[pair.image], text=texts.get(pair), attention=attention, grids=grids)
        for pair, attention, grids in zip(pairs, targets.maps, targets.grids, strict=True)
    ]


def teach(
    predictor: Predictor, examples: Sequence[Example], recipe: Recipe, *, show_progress: bool = False
) -> list[float]:
    """Train in place, on the CPU: the mean square of what is missing to each patch's logarithm of attention.

    Args:
        predictor: a new one.
        examples: to learn.
        recipe: how.
        show_progress: a bar on standard error.

    Returns:
        The loss of each epoch.
    """
    with torch.no_grad():
        _standardise(predictor, examples)
        wanted = [one.logarithm() / predictor.card.spread for one in examples]
    optimizer = torch.optim.AdamW(predictor.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    steps = recipe.epochs * math.ceil(len(examples) / recipe.maps_per_step)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=max(2, steps))
    generator = torch.Generator(device="cpu").manual_seed(recipe.seed)
    losses = []
    for _ in tqdm(range(recipe.epochs), desc="epochs", disable=not show_progress):
        total = 0.0
        for batch in torch.randperm(len(examples), generator=generator).split(recipe.maps_per_step):
            inputs = torch.cat([examples[number].inputs(predictor) for number in batch.tolist()])
            loss = (predictor(inputs) - torch.cat([wanted[number] for number in batch.tolist()])).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(batch)
        losses.append(total / len(examples))
    return losses


def _standardise(predictor: Predictor, examples: Sequence[Example]) -> None:
    count, total, squares = 0, torch.zeros_like(predictor.mean).double(), torch.zeros_like(predictor.mean).double()
    for one in examples:
        inputs = one.inputs(predictor).double()
        count, total, squares = count + len(inputs), total + inputs.sum(dim=0), squares + inputs.square().sum(dim=0)
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
    predictor.mean.copy_(mean)
    # What never changes tells nothing, and must not be divided by.
    predictor.deviation.copy_(torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)))


def _batches(pairs: Sequence[Pair], size: int) -> Iterator[Sequence[Pair]]:
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]
