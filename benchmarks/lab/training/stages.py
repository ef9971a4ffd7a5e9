"""The stages of LLaVA's training, each as a module to optimise and the loss of a step; any family's model."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..families import LabFamily
from ..world.categories import CATEGORIES
from ..world.packing import conversations, pack
from .corpus import PATCH_LABELS, Corpus
from .loop import batch_indices
from .recipe import Recipe

__all__ = ["decoder_stage", "encode_corpus", "label_embeddings", "projector_stage", "vision_stage"]

Loss = Callable[[int], Tensor]


def vision_stage(family: LabFamily, model: Any, corpus: Corpus, recipe: Recipe) -> tuple[nn.Module, Loss]:
    """Stage 1: the vision tower learns which category, or which scene's background, each patch shows.

    Returns:
        The tower with a linear head that is dropped afterwards, and the loss of a step.
    """
    head = nn.Linear(recipe.size.vision_width, len(PATCH_LABELS))
    nn.init.normal_(head.weight, std=0.02, generator=torch.Generator().manual_seed(recipe.seed))
    nn.init.zeros_(head.bias)
    trained = nn.ModuleDict({"tower": family.tower(model), "head": head}).to(model.device)
    weights = torch.full((len(PATCH_LABELS),), recipe.background_weight, device=model.device)
    weights[[label in CATEGORIES for label in PATCH_LABELS]] = 1.0

    def loss_of(step: int) -> Tensor:
        chosen = batch_indices(step, recipe.vision.batch, recipe.images, recipe.seed)
        with _autocast(model):
            logits = head(family.encode(model, [corpus.views[index] for index in chosen]))
        labels = torch.cat([corpus.labels[index] for index in chosen]).to(model.device)
        return functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), weights)

    return trained, loss_of


def projector_stage(
    family: LabFamily, model: Any, corpus: Corpus, features: list[Tensor], recipe: Recipe
) -> tuple[nn.Module, Loss]:
    """Stage 2: the projector learns to say each image token in the decoder's own words.

    Without it the decoder takes the image tokens for noise and stays at the language prior.

    Returns:
        The projector, and the loss of a step: the squared error relative to the embeddings' variance.
    """
    targets = label_embeddings(family, model)

    def loss_of(step: int) -> Tensor:
        chosen = batch_indices(step, recipe.projector.batch, recipe.images, recipe.seed)
        shown = _gather(features, chosen, model)
        with _autocast(model):
            projected = family.project(model, shown)
        labels = torch.cat([corpus.labels[index] for index in chosen]).to(model.device)
        return functional.mse_loss(projected.float(), targets[labels].mean(1)) / targets.var()

    return family.projector(model), loss_of


def decoder_stage(
    family: LabFamily, model: Any, corpus: Corpus, features: list[Tensor], recipe: Recipe, name: str = "decoder"
) -> tuple[nn.Module, Loss]:
    """Stages 3 and 4: projector and decoder learn to answer, on features that are computed once.

    Returns:
        All but the vision tower, and the loss of a step: the weighted cross-entropy of the answers.
    """
    decoder = model.model.language_model
    trained = nn.ModuleDict({"projector": family.projector(model), "decoder": decoder, "head": model.lm_head})
    world, batch_size = recipe.world_of(name), recipe.stage(name).batch
    # Other images and questions in each stage.
    offset, stream = {"decoder": (1, "questions"), "again": (3, name), "refine": (2, name)}[name]

    def loss_of(step: int) -> Tensor:
        chosen = batch_indices(step, batch_size, recipe.images, recipe.seed + offset)
        rng = random.Random(f"{recipe.seed}/{stream}/{step}")
        asked = [conversations(corpus.images[index], world, recipe.questions, rng) for index in chosen]
        places = [family.positions(corpus.shapes[index]) for index in chosen]
        batch = pack(asked, places, family.chat, recipe.answer_weight, model.device)
        shown = _gather(features, chosen, model)
        with _autocast(model):
            seen = family.project(model, shown)
            embedded = model.get_input_embeddings()(batch.ids)
            embedded = embedded.masked_scatter(
                (batch.ids == family.image_token_id)[:, :, None], seen.to(embedded.dtype)
            )
            hidden = decoder(
                inputs_embeds=embedded,
                attention_mask=batch.mask,
                position_ids=batch.positions if len(batch.positions) > 1 else batch.positions[0],
                use_cache=False,
            ).last_hidden_state
            logits = model.lm_head(hidden[batch.rows, batch.columns])
        losses = functional.cross_entropy(logits.float(), batch.targets, reduction="none")
        return (losses * batch.weights).sum() / batch.weights.sum()

    return trained, loss_of


def encode_corpus(family: LabFamily, model: Any, corpus: Corpus, batch: int = 48) -> list[Tensor]:
    """Return the tower's features of each image in half precision: ``(tokens, merge², vision_width)``, on the CPU."""
    family.tower(model).eval()
    features: list[Tensor] = []
    with torch.no_grad():
        for start in range(0, len(corpus.views), batch):
            part = slice(start, start + batch)
            encoded = family.encode(model, corpus.views[part]).half().cpu()
            features += encoded.split([len(labels) for labels in corpus.labels[part]])
    return features


def label_embeddings(family: LabFamily, model: Any) -> Tensor:
    """Return the mean word embedding of each patch label: ``(labels, text_width)``."""
    table = model.get_input_embeddings().state_dict()["weight"]
    rows = [table[family.tokenizer(label, add_special_tokens=False).input_ids].mean(0) for label in PATCH_LABELS]
    return torch.stack(rows)


def _gather(features: list[Tensor], chosen: list[int], model: Any) -> Tensor:
    return torch.cat([features[index] for index in chosen]).to(model.device).float()


def _autocast(model: Any) -> torch.autocast:
    device = model.device.type
    # On processors without bfloat16 units half precision is several times slower than float32.
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")
