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
from .scenes import LabImage

__all__ = ["Chat", "PackedBatch", "conversations", "pack"]

_SUFFIX_RATE = 0.15  # of questions end as some benchmarks end them
_UNKNOWN_RATE = 0.05  # of prompts begin with words the model does not know, as a system prompt would
_MOST_UNKNOWN = 12


@dataclass(frozen=True)
class PackedBatch:
    """A batch for the decoder.

    Attributes:
        ids: Tokens ``(batch, length)``; placeholders where image tokens go.
        positions: Position of each token along each axis, as in the conversation that holds only it,
            ``(axes, batch, length)``.
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


class Chat:
    """What a chat template puts around an image and a question, in tokens.

    Args:
        tokenizer: The tokenizer.
        before: What stands before the tokens of the image.
        image_token: The placeholder of image tokens.
        after: What stands between image and question.
        closing: What stands between question and answer.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, before: str, image_token: int, after: str, closing: str
    ) -> None:
        def encode(text: str) -> tuple[int, ...]:
            return tuple(tokenizer(text, add_special_tokens=False).input_ids)

        self.before: tuple[int, ...] = tuple(tokenizer(before).input_ids)
        self.after = encode(after)
        self.image_token = image_token
        self.pad: int = tokenizer.pad_token_id
        self.end: int = tokenizer.eos_token_id
        self._closing = closing
        self._encode = lru_cache(maxsize=200_000)(encode)

    def turn(self, prompt: str, answer: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the tokens of a question up to its answer, and those of the answer."""
        return self._encode(prompt + self._closing), (*self._encode(answer), self.end)


def pack(
    batch: Sequence[Sequence[tuple[str, str]]],
    places: Sequence[Tensor],
    chat: Chat,
    answer_weight: float,
    device: torch.device,
) -> PackedBatch:
    """Pack the conversations of each image behind one copy of the image.

    Args:
        batch: For each image, pairs of prompt and answer.
        places: For each image, the positions of its tokens from 0, ``(axes, tokens)``.
        chat: What stands around them.
        answer_weight: Weight of a yes/no token in the loss.
        device: Where the tensors go.
    """
    turns = [[chat.turn(*pair) for pair in pairs] for pairs in batch]
    prefixes = [[*chat.before, *[chat.image_token] * place.shape[1], *chat.after] for place in places]
    length = max(
        len(prefix) + sum(len(prompt) + len(answer) for prompt, answer in asked)
        for prefix, asked in zip(prefixes, turns, strict=True)
    )
    ids = torch.full((len(batch), length), chat.pad)
    positions = torch.zeros(len(places[0]), *ids.shape, dtype=torch.long)
    segments = torch.full_like(ids, -1)
    found: list[tuple[int, int, int, float]] = []
    for row, (prefix, place, asked) in enumerate(zip(prefixes, places, turns, strict=True)):
        start, image = len(prefix), len(chat.before)
        ids[row, :start] = torch.tensor(prefix)
        positions[:, row, :image] = torch.arange(image)
        positions[:, row, image : image + place.shape[1]] = image + place
        # Text goes on after the largest position of the image, along every axis alike.
        begin = image + int(place.max()) + 1
        positions[:, row, image + place.shape[1] : start] = begin + torch.arange(len(chat.after))
        begin += len(chat.after)
        segments[row, :start] = 0
        for segment, (prompt, answer) in enumerate(asked, start=1):
            stop = start + len(prompt) + len(answer)
            ids[row, start:stop] = torch.tensor([*prompt, *answer])
            positions[:, row, start:stop] = begin + torch.arange(stop - start)
            segments[row, start:stop] = segment
            first = answer_weight if batch[row][segment - 1][1] in ("Yes", "No") else 1.0
            for offset, token in enumerate(answer):
                found.append((row, start + len(prompt) + offset - 1, token, first if token != chat.end else 1.0))
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
