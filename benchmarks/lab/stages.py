"""The three stages of LLaVA's training, each as a module to optimise and the loss of a step."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaForConditionalGeneration

from .categories import CATEGORIES
from .corpus import PATCH_LABELS, Corpus
from .loop import batch_indices
from .model import normalized, vision_features
from .packing import conversations, pack
from .recipe import Recipe
from .tokenizer import build_tokenizer

__all__ = ["decoder_stage", "encode_corpus", "label_embeddings", "projector_stage", "vision_stage"]

Loss = Callable[[int], Tensor]


def vision_stage(model: LlavaForConditionalGeneration, corpus: Corpus, recipe: Recipe) -> tuple[nn.Module, Loss]:
    """Stage 1: the vision tower learns which category, or which scene's background, each patch shows.

    Returns:
        The tower with a linear head that is dropped afterwards, and the loss of a step.
    """
    tower = model.model.vision_tower
    # What only CLIP's pooled output uses never gets a gradient and keeps its initial value.
    head = nn.Linear(recipe.size.vision_width, len(PATCH_LABELS))
    nn.init.normal_(head.weight, std=0.02, generator=torch.Generator().manual_seed(recipe.seed))
    nn.init.zeros_(head.bias)
    trained = nn.ModuleDict({"tower": tower, "head": head}).to(_device(model))
    weights = torch.full((len(PATCH_LABELS),), recipe.background_weight, device=_device(model))
    weights[[label in CATEGORIES for label in PATCH_LABELS]] = 1.0

    def loss_of(step: int) -> Tensor:
        chosen = batch_indices(step, recipe.vision.batch, recipe.images, recipe.seed)
        pixels = normalized(corpus.pixels[chosen].to(_device(model)))
        with _autocast(model):
            logits = head(vision_features(tower, pixels))
        labels = corpus.labels[chosen].to(_device(model))
        return functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), weights)

    return trained, loss_of


def projector_stage(
    model: LlavaForConditionalGeneration, corpus: Corpus, features: Tensor, recipe: Recipe
) -> tuple[nn.Module, Loss]:
    """Stage 2: the projector learns to say each patch in the decoder's own words.

    Without it the decoder takes the patches for noise and stays at the language prior.

    Returns:
        The projector, and the loss of a step: the squared error relative to the embeddings' variance.
    """
    projector = model.model.multi_modal_projector
    targets = label_embeddings(model)

    def loss_of(step: int) -> Tensor:
        chosen = batch_indices(step, recipe.projector.batch, recipe.images, recipe.seed)
        with _autocast(model):
            projected = projector(features[chosen].to(_device(model)).float())
        wanted = targets[corpus.labels[chosen].to(_device(model))]
        return functional.mse_loss(projected.float(), wanted) / targets.var()

    return projector, loss_of


def decoder_stage(
    model: LlavaForConditionalGeneration, corpus: Corpus, features: Tensor, recipe: Recipe, name: str = "decoder"
) -> tuple[nn.Module, Loss]:
    """Stages 3 and 4: projector and decoder learn to answer, on features that are computed once.

    Returns:
        All but the vision tower, and the loss of a step: the weighted cross-entropy of the answers.
    """
    inner = model.model
    trained = nn.ModuleDict(
        {"projector": inner.multi_modal_projector, "decoder": inner.language_model, "head": model.lm_head}
    )
    world, batch_size = recipe.world_of(name), recipe.stage(name).batch
    offset, stream = (1, "questions") if name == "decoder" else (2, name)  # other images and questions in each stage
    image_token = model.config.image_token_id

    def loss_of(step: int) -> Tensor:
        chosen = batch_indices(step, batch_size, recipe.images, recipe.seed + offset)
        rng = random.Random(f"{recipe.seed}/{stream}/{step}")
        asked = [conversations(corpus.images[index], world, recipe.questions, rng) for index in chosen]
        batch = pack(asked, recipe.size.patches, recipe.answer_weight, _device(model))
        with _autocast(model):
            patches = inner.multi_modal_projector(features[chosen].to(_device(model)).float())
            embedded = model.get_input_embeddings()(batch.ids)
            embedded = embedded.masked_scatter((batch.ids == image_token)[:, :, None], patches.to(embedded.dtype))
            hidden = inner.language_model(
                inputs_embeds=embedded, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
            ).last_hidden_state
            logits = model.lm_head(hidden[batch.rows, batch.columns])
        losses = functional.cross_entropy(logits.float(), batch.targets, reduction="none")
        return (losses * batch.weights).sum() / batch.weights.sum()

    return trained, loss_of


def encode_corpus(model: LlavaForConditionalGeneration, corpus: Corpus, batch: int = 96) -> Tensor:
    """Return the tower's features of all images in half precision: ``(images, patches, vision_width)``, on the CPU."""
    tower = model.model.vision_tower.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(corpus.pixels), batch):
            pixels = normalized(corpus.pixels[start : start + batch].to(_device(model)))
            parts.append(vision_features(tower, pixels).half().cpu())
    return torch.cat(parts).clone()


def label_embeddings(model: LlavaForConditionalGeneration) -> Tensor:
    """Return the mean word embedding of each patch label: ``(labels, text_width)``."""
    tokenizer = build_tokenizer()
    table = model.get_input_embeddings().state_dict()["weight"]
    rows = [table[tokenizer(label, add_special_tokens=False).input_ids].mean(0) for label in PATCH_LABELS]
    return torch.stack(rows)


def _device(model: LlavaForConditionalGeneration) -> torch.device:
    return model.lm_head.weight.device


def _autocast(model: LlavaForConditionalGeneration) -> torch.autocast:
    device = _device(model).type
    # On processors without bfloat16 units half precision is several times slower than float32.
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")
