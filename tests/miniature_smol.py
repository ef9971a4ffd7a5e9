"""A tiny language model of SmolLM2's class, tokenizer and template, as `fetch` leaves one in the cache."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.lab.pictures.config import PicturesConfig
from benchmarks.lab.pictures.language import conversations
from benchmarks.lab.pictures.scenes import make_scene

__all__ = ["write_decoder"]

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<empty_output>")
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are tiny<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_decoder(folder: Path, width: int = 32, blocks: int = 2, seed: int = 0) -> Path:
    """Write a random Llama with a tokenizer that was trained on a few pictures' questions and captions."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng, world = random.Random(0), PicturesConfig()
    pairs = [conversations(make_scene(world, "train", index), world, 2, rng) for index in range(20)]
    tokenizer.train_from_iterator([text for asked in pairs for pair in asked for text in pair], trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=tokenizer.get_vocab_size(),
                hidden_size=width,
                intermediate_size=48,
                num_hidden_layers=blocks,
                num_attention_heads=4,
                num_key_value_heads=2,
                tie_word_embeddings=True,
                bos_token_id=1,
                eos_token_id=2,
                pad_token_id=2,
                initializer_range=0.1,
            )
        )
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder
