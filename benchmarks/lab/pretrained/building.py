"""A LLaVA around a language model: an untrained SigLIP tower and projector before it, and the processor that fits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

from scr import ModelLoadError
from scr.files import json_text, parse_json

__all__ = ["IMAGE_TOKEN", "TowerSize", "build_model", "build_processor"]

IMAGE_TOKEN = "<image>"
"""The placeholder of image tokens: one of the language model's reserved tokens under another name, so that its
vocabulary stays as it is."""
_RESERVED = "<empty_output>"

# A message whose content is a list of parts becomes one with a text, which is all that the model's own template takes.
_FLATTENED = (
    "{%- set flat = namespace(messages=[]) -%}"
    "{%- for message in messages -%}"
    "{%- set content = namespace(text='') -%}"
    "{%- if message['content'] is string -%}{%- set content.text = message['content'] -%}{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- set content.text = content.text + ('IMAGE\\n' if part['type'] == 'image' else part['text']) -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- set flat.messages = flat.messages + [{'role': message['role'], 'content': content.text}] -%}"
    "{%- endfor -%}"
    "{%- set messages = flat.messages -%}"
).replace("IMAGE", IMAGE_TOKEN)


@dataclass(frozen=True, kw_only=True)
class TowerSize:
    """Sizes of the vision tower, a SigLIP without its pooling head.

    Attributes:
        image_size: Side of the square images, in pixels.
        patch_size: Side of a patch, in pixels; a patch is an image token.
        width: Hidden size.
        mlp: Inner size of its feed-forward blocks.
        blocks: Depth.
        heads: Attention heads.
    """

    image_size: int = 224
    patch_size: int = 14
    width: int = 192
    mlp: int = 768
    blocks: int = 6
    heads: int = 6

    @property
    def side(self) -> int:
        """Patches per side of an image."""
        return self.image_size // self.patch_size


def build_model(decoder: Path, size: TowerSize, seed: int = 0) -> LlavaForConditionalGeneration:
    """Build a LLaVA in float32 with a checkpoint's language model and an untrained tower and projector.

    Args:
        decoder: Folder of the language model.
        size: Of the tower.
        seed: Of what is untrained.

    Raises:
        ModelLoadError: for a folder that holds no Llama.
    """
    try:
        language: Any = AutoModelForCausalLM.from_pretrained(
            decoder, dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
    except Exception as error:  # transformers raises anything on a checkpoint that it cannot load
        raise ModelLoadError(
            f"language model cannot be loaded: got {decoder} ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}); expected a checkpoint in safetensors. Fetch it again."
        ) from error
    text = language.config
    if text.model_type != "llama":
        raise ModelLoadError(f"another language model: got a {text.model_type}; expected a llama. Fetch it again.")
    vision = SiglipVisionConfig(
        image_size=size.image_size,
        patch_size=size.patch_size,
        hidden_size=size.width,
        intermediate_size=size.mlp,
        num_hidden_layers=size.blocks,
        num_attention_heads=size.heads,
        vision_use_head=False,
    )
    special = {name: getattr(text, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=build_processor(decoder, size).tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=size.side**2,
        vision_feature_layer=-1,  # not -2 as in LLaVA-1.5: in a tower so small a block that nobody reads is a waste
        vision_feature_select_strategy="full",
        tie_word_embeddings=text.tie_word_embeddings,
        **special,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    inner: Any = model.model
    inner.language_model.load_state_dict(language.model.state_dict())
    if not text.tie_word_embeddings:
        model.lm_head.load_state_dict(language.lm_head.state_dict())
    model.generation_config = GenerationConfig(do_sample=False, **special)
    return model


def build_processor(decoder: Path, size: TowerSize) -> LlavaProcessor:
    """Build the processor: the language model's tokenizer and chat template, and images at the tower's size.

    Raises:
        ModelLoadError: for a tokenizer without the reserved token that stands for image tokens.
    """
    own: Any = AutoTokenizer.from_pretrained(decoder, local_files_only=True)
    content = own.backend_tokenizer.to_str()
    if _RESERVED not in own.get_vocab():
        raise ModelLoadError(
            f"another tokenizer: got one without the token {_RESERVED!r} in {decoder}; expected SmolLM2's. "
            "Fetch it again."
        )
    renamed = json_text(_renamed(parse_json(content, decoder)))
    template = _FLATTENED + (own.chat_template or "")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(renamed),
        bos_token=own.bos_token,
        eos_token=own.eos_token,
        pad_token=own.pad_token,
        unk_token=own.unk_token,
        extra_special_tokens={"image_token": IMAGE_TOKEN},
        padding_side="left",
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
        chat_template=template,
    )
    square = {"height": size.image_size, "width": size.image_size}
    return LlavaProcessor(
        image_processor=SiglipImageProcessorPil(size=square, image_mean=[0.5] * 3, image_std=[0.5] * 3),
        tokenizer=tokenizer,
        patch_size=size.patch_size,
        vision_feature_select_strategy="full",
        chat_template=template,
        num_additional_image_tokens=0,
    )


def _renamed(value: Any) -> Any:
    """A tokenizer's JSON with the reserved token under its other name, wherever it stands."""
    if isinstance(value, dict):
        return {_renamed(key): _renamed(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_renamed(entry) for entry in value]
    return IMAGE_TOKEN if value == _RESERVED else value
