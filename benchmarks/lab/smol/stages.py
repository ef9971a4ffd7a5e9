"""The stages of the training, each as a module to optimise, the loss of a batch, and what is measured on val."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from ..families.base import normalized
from ..pictures.categories import CATEGORIES
from ..pretrained.building import IMAGE_TOKEN
from ..world.packing import Chat, PackedBatch, pack
from .batches import LABELS, Batch
from .recipe import SmolRecipe

__all__ = ["LINEAR", "Stage", "chat_of", "encode", "factors", "lora_stage", "projector_stage", "tower_stage"]

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of a block of the language model: all."""


@dataclass(frozen=True)
class Stage(ABC):
    """What a stage trains.

    Attributes:
        module: What is optimised and saved.
    """

    module: nn.Module

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """The loss of a batch."""

    def measure(self, batch: Batch) -> dict[str, float]:
        """What is measured on a batch of val."""
        return {"val_loss": float(self.loss(batch))}


@dataclass(frozen=True)
class _Tower(Stage):
    model: LlavaForConditionalGeneration
    head: nn.Module
    weights: Tensor

    def loss(self, batch: Batch) -> Tensor:
        logits, labels = self._logits(batch)
        return functional.cross_entropy(logits, labels, self.weights)

    def measure(self, batch: Batch) -> dict[str, float]:
        logits, labels = self._logits(batch)
        right, thing = logits.argmax(-1) == labels, labels < len(CATEGORIES)
        loss = functional.cross_entropy(logits, labels, self.weights)
        return {
            "val_loss": float(loss),
            "val_things": float(right[thing].float().mean()),
            "val_ground": float(right[~thing].float().mean()),
        }

    def _logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with _autocast(self.model):
            logits = self.head(encode(self.model, batch.pixels))
        return logits.float().flatten(0, 1), batch.labels.flatten().to(logits.device)


@dataclass(frozen=True)
class _Projector(Stage):
    model: LlavaForConditionalGeneration
    targets: Tensor

    def loss(self, batch: Batch) -> Tensor:
        with torch.no_grad(), _autocast(self.model):
            features = encode(self.model, batch.pixels)
        with _autocast(self.model):
            projected = self.module(features)
        wanted = self.targets[batch.labels.to(projected.device)]
        return functional.mse_loss(projected.float(), wanted) / self.targets.var()


@dataclass(frozen=True)
class _Lora(Stage):
    model: LlavaForConditionalGeneration
    chat: Chat
    answer_weight: float

    def loss(self, batch: Batch) -> Tensor:
        packed, logits = self._logits(batch)
        losses = functional.cross_entropy(logits, packed.targets, reduction="none")
        return (losses * packed.weights).sum() / packed.weights.sum()

    def measure(self, batch: Batch) -> dict[str, float]:
        packed, logits = self._logits(batch)
        losses = functional.cross_entropy(logits, packed.targets, reduction="none")
        short = packed.weights != 1.0  # the words Yes and No
        right = (logits.argmax(-1) == packed.targets).float()
        return {
            "val_loss": float((losses * packed.weights).sum() / packed.weights.sum()),
            "val_yes_no": float(right[short].mean()),
            "val_words": float(right[~short].mean()),
        }

    def _logits(self, batch: Batch) -> tuple[PackedBatch, Tensor]:
        model: Any = self.model
        with torch.no_grad(), _autocast(model):
            features = encode(model, batch.pixels)
        places = [torch.arange(features.shape[1])[None]] * len(batch.asked)
        packed = pack(batch.asked, places, self.chat, self.answer_weight, model.device)
        with _autocast(model):
            seen = model.model.multi_modal_projector(features)
            embedded = model.get_input_embeddings()(packed.ids)
            embedded = embedded.masked_scatter(
                (packed.ids == self.chat.image_token)[:, :, None], seen.to(embedded.dtype)
            )
            hidden = model.model.language_model(
                inputs_embeds=embedded,
                attention_mask=packed.mask,
                position_ids=packed.positions[0],
                use_cache=False,
            ).last_hidden_state
            logits = model.lm_head(hidden[packed.rows, packed.columns])
        return packed, logits.float()


def tower_stage(model: LlavaForConditionalGeneration, recipe: SmolRecipe) -> Stage:
    """Stage 1: the tower learns which category, or which place's ground, each patch shows.

    Its module is the tower with a linear head, which is dropped afterwards.
    """
    inner: Any = model.model
    linear = nn.Linear(recipe.size.width, len(LABELS))
    nn.init.normal_(linear.weight, std=0.02, generator=torch.Generator().manual_seed(recipe.seed))
    nn.init.zeros_(linear.bias)
    head = nn.Sequential(nn.LayerNorm(recipe.size.width), linear)
    weights = torch.full((len(LABELS),), recipe.ground_weight)
    weights[: len(CATEGORIES)] = 1.0
    trained = nn.ModuleDict({"tower": inner.vision_tower, "head": head}).to(model.device)
    return _Tower(trained, model, head, weights.to(model.device))


def projector_stage(model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> Stage:
    """Stage 2: the projector learns to say each patch in the language model's own words.

    Without it the language model takes the image tokens for noise and stays at the language prior.
    """
    inner: Any = model.model
    embedding: Any = model.get_input_embeddings()
    table = embedding.weight.detach()
    # With the blank that a word has before it within a sentence.
    ids = [processor.tokenizer(f" {label}", add_special_tokens=False).input_ids for label in LABELS]
    return _Projector(inner.multi_modal_projector, model, torch.stack([table[one].mean(0) for one in ids]))


def lora_stage(model: LlavaForConditionalGeneration, processor: LlavaProcessor, recipe: SmolRecipe) -> Stage:
    """Stage 3: projector and low-rank factors learn to answer; every question is seen as if it were the only one."""
    inner: Any = model.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        config = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=list(LINEAR))
        inject_adapter_in_model(config, inner.language_model)
    trained = [one for name, one in inner.language_model.named_parameters() if ".lora_" in name]
    module = nn.ModuleDict({"projector": inner.multi_modal_projector, "factors": nn.ParameterList(trained)})
    return _Lora(module.to(model.device), model, chat_of(processor), recipe.answer_weight)


def factors(model: LlavaForConditionalGeneration) -> dict[str, Tensor]:
    """Return what stage 3 trained in the language model: `<layer>.A` and `<layer>.B`."""
    inner: Any = model.model
    found: dict[str, Tensor] = {}
    for name, value in inner.language_model.named_parameters():
        if ".lora_" in name:
            layer, _, which = name.partition(".lora_")
            found[f"{layer}.{which[0]}"] = value.detach()
    return found


def encode(model: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Return what the projector takes, ``(batch, patches, width)``, of ``uint8`` pictures ``(batch, ..., 3)``."""
    inner: Any = model.model
    shown = normalized(pixels.to(model.device))
    return inner.vision_tower(shown, output_hidden_states=True).hidden_states[-1]


def chat_of(processor: LlavaProcessor) -> Chat:
    """Return what the chat template puts around a picture and a question."""
    message: dict[str, Any] = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "\0"}]}
    text = str(processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False))
    before, rest = text.split(IMAGE_TOKEN)
    after, closing = rest.split("\0")
    return Chat(processor.tokenizer, before, processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN), after, closing)


def mean_of(measured: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each entry."""
    return {name: sum(one[name] for one in measured) / len(measured) for name in measured[0]}


def _autocast(model: LlavaForConditionalGeneration) -> torch.autocast:
    device = model.device.type
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda" or _has_bfloat16_units())


def _has_bfloat16_units() -> bool:
    """Whether this processor multiplies in bfloat16; on one that does not, it is several times slower than float32."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
