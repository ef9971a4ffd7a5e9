"""Several questions about one image in one sequence, each seen by the model as if it were the only one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .config import WorldConfig
from .language import (
    DETAIL_PROMPTS,
    QUESTION_SUFFIXES,
    SHORT_PROMPTS,
    detailed_caption,
    largest,
    question,
    sample_question,
    short_caption,
    training_objects,
)
from .tokenizer import build_tokenizer
from .world import LabImage

__all__ = ["PackedBatch", "conversations", "pack"]

_SUFFIX_RATE = 0.15  # of questions end as some benchmarks end them
_UNKNOWN_RATE = 0.05  # of prompts begin with words the model does not know, as a system prompt would
_MOST_UNKNOWN = 12


@dataclass(frozen=True)
class PackedBatch:
    """A batch for the decoder.

    Attributes:
        ids: Tokens ``(batch, length)``; image placeholders where patches go.
        positions: Position of each token, counted as in the conversation that holds only it, ``(batch, length)``.
        mask: True where a token may look, ``(batch, 1, length, length)``.
        rows: Row of every token that predicts a part of an answer, ``(targets,)``.
        columns: Its column, ``(targets,)``.
        targets: What it should predict, ``(targets,)``.
        weights: Weight of each in the loss, ``(targets,)``.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    rows: Tensor
    columns: Tensor
    targets: Tensor
    weights: Tensor


def conversations(image: LabImage, world: WorldConfig, questions: int, rng: random.Random) -> list[tuple[str, str]]:
    """Draw what is asked about an image in one step, with the right answers.

    Args:
        image: The image.
        world: Its language knobs.
        questions: Number of yes/no questions; a detailed caption follows, and every second time a short one.
        rng: Where the choices come from.
    """
    pairs = []
    for _ in range(questions):
        name, there = sample_question(image, world, rng)
        text = question(name)
        if rng.random() < _SUFFIX_RATE:
            text = f"{text} {rng.choice(QUESTION_SUFFIXES[1:])}"
        pairs.append((text, "Yes" if there else "No"))
    named = training_objects(image, world, rng)
    pairs.append((rng.choice(DETAIL_PROMPTS), detailed_caption(image.scene, named)))
    if rng.random() < 0.5:
        pairs.append((rng.choice(SHORT_PROMPTS), short_caption(image.scene, largest(image, 3))))
    return [
        (f"{'<unk> ' * rng.randint(1, _MOST_UNKNOWN)}{text}" if rng.random() < _UNKNOWN_RATE else text, answer)
        for text, answer in pairs
    ]


def pack(
    batch: Sequence[Sequence[tuple[str, str]]], patches: int, answer_weight: float, device: torch.device
) -> PackedBatch:
    """Pack the conversations of each image behind one copy of the image.

    Args:
        batch: For each image, pairs of prompt and answer.
        patches: Number of patches.
        answer_weight: Weight of a yes/no token in the loss.
        device: Where the tensors go.
    """
    prefix = [*_encode("USER: <image>", True)[:-1], *[_encode("<image>", False)[0]] * patches]
    end = _tokenizer().eos_token_id
    length = len(prefix) + max(sum(len(_turn(*pair)[0]) + len(_turn(*pair)[1]) for pair in pairs) for pairs in batch)
    ids = torch.full((len(batch), length), _tokenizer().pad_token_id)
    positions = torch.zeros_like(ids)
    segments = torch.full_like(ids, -1)
    ids[:, : len(prefix)] = torch.tensor(prefix)
    positions[:, : len(prefix)] = torch.arange(len(prefix))
    segments[:, : len(prefix)] = 0
    found: list[tuple[int, int, int, float]] = []
    for row, pairs in enumerate(batch):
        start = len(prefix)
        for segment, pair in enumerate(pairs, start=1):
            prompt, answer = _turn(*pair)
            stop = start + len(prompt) + len(answer)
            ids[row, start:stop] = torch.tensor([*prompt, *answer])
            positions[row, start:stop] = len(prefix) + torch.arange(stop - start)
            segments[row, start:stop] = segment
            first = answer_weight if pair[1] in ("Yes", "No") else 1.0
            for offset, token in enumerate(answer):
                found.append((row, start + len(prompt) + offset - 1, token, first if token != end else 1.0))
            start = stop
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = (segments[:, None, :] == segments[:, :, None]) | (segments[:, None, :] == 0)
    rows, columns, targets, weights = zip(*found, strict=True)
    return PackedBatch(
        ids.to(device),
        positions.to(device),
        (same & causal)[:, None].to(device),
        torch.tensor(rows, device=device),
        torch.tensor(columns, device=device),
        torch.tensor(targets, device=device),
        torch.tensor(weights, device=device),
    )


@lru_cache(maxsize=1)
def _tokenizer() -> PreTrainedTokenizerBase:
    return build_tokenizer()


@lru_cache(maxsize=200_000)
def _encode(text: str, start: bool) -> tuple[int, ...]:
    return tuple(_tokenizer()(text, add_special_tokens=start).input_ids)


def _turn(prompt: str, answer: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return _encode(f"{prompt} ASSISTANT:", False), (*_encode(answer, False), _tokenizer().eos_token_id)
