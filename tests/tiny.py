"""Tiny models of the real transformers classes, with random weights, built from config: no download, no training."""

from __future__ import annotations

import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

WORDS = [
    "USER",
    ":",
    "ASSISTANT",
    "is",
    "there",
    "a",
    "an",
    "dog",
    "cat",
    "in",
    "the",
    "image",
    "?",
    "please",
    "describe",
    "this",
    "detail",
    ".",
    "yes",
    "no",
    "Yes",
    "No",
    "it",
    "two",
    "of",
    "one",
]
SIDE = 6  # patches
IMAGE_SIZE = SIDE * 4


def tiny_processor() -> LlavaProcessor:
    """A word-level tokenizer and a CLIP image processor for 24 × 24 pixels."""
    specials = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
    vocabulary = {word: index for index, word in enumerate([*specials, *dict.fromkeys(WORDS)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        padding_side="left",
    )
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=size, crop_size=size),
        tokenizer=fast,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def tiny_llava(
    seed: int = 0, layers: int = 8, attention: str = "sdpa"
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """A LLaVA of 8 blocks, dimension 32 and 6 × 6 patches, with grouped key heads; and its processor.

    Weights are larger than the usual initialisation, so that attention is far from uniform and edits show.
    """
    processor = tiny_processor()
    tokenizer = processor.tokenizer
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=IMAGE_SIZE,
            patch_size=4,
            projection_dim=32,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=SIDE * SIDE,
        vision_feature_layer=-1,
    )
    config._attn_implementation = attention
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "norm" not in name:
                parameter.normal_(std=0.15 if "language_model" in name or "lm_head" in name else 0.2)
    torch.random.set_rng_state(generator_state)
    # Random models say their end token at once; without it every test generates what it asks for.
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, processor


def picture(seed: int) -> Image.Image:
    """A picture of coloured noise."""
    pixels = torch.randint(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def inputs_for(processor: LlavaProcessor, prompts: list[tuple[str, list[int]]], **kwargs: object) -> dict:
    """A left-padded batch: each row a text with `<image>` marks, and the seeds of its pictures."""
    images = [[picture(seed) for seed in seeds] for _, seeds in prompts]
    flat = [image for row in images for image in row]
    texts = [text for text, _ in prompts]
    batch = processor(text=texts, images=flat or None, padding=True, return_tensors="pt", **kwargs)
    return dict(batch)
