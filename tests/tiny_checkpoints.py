"""Tiny checkpoints on disk, of the classes of the declared protocols' models, with processors that read pictures."""

from __future__ import annotations

from pathlib import Path

import transformers as hf
from miniature import write_checkpoint
from test_adapters import write_adapter
from tiny_families import PIXELS, TINY
from tokenizers import Tokenizer, models, pre_tokenizers

from benchmarks.lab import checkpoint_folder

__all__ = ["WRITERS", "write_refusal"]


def write_qwen25vl(folder: Path) -> Path:
    """A Qwen2.5-VL with the tokenizer and the template of the lab's Qwen2-VL."""
    processor = hf.AutoProcessor.from_pretrained(checkpoint_folder("lab/qwen2_vl"))
    words, tiny = processor.tokenizer, TINY["qwen2_5_vl"]()
    side = 8 * PIXELS
    hf.PaddleOCRVLProcessor(
        image_processor=hf.Qwen2VLImageProcessorPil(
            patch_size=PIXELS,
            merge_size=2,
            temporal_patch_size=2,
            size={"shortest_edge": side**2, "longest_edge": side**2},
        ),
        tokenizer=words,
        chat_template=processor.chat_template,
    ).save_pretrained(folder)
    ids = {"image": "<|image_pad|>", "video": "<|video_pad|>", "vision_start": "<|vision_start|>"}
    ids |= {"vision_end": "<|vision_end|>"}
    for name, token in ids.items():
        setattr(tiny.model.config, f"{name}_token_id", words.convert_tokens_to_ids(token))
    return _save(tiny.model, words, folder)


def write_smolvlm(folder: Path) -> Path:
    """A SmolVLM whose tokens are letters; its own processor cannot be built without one for videos."""
    alphabet = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    base = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = hf.PreTrainedTokenizerFast(tokenizer_object=base, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    marks = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
    words.add_special_tokens({"additional_special_tokens": marks})
    words.padding_side = "left"
    splitting = hf.Idefics3ImageProcessorPil(size={"longest_edge": 40}, max_image_size={"longest_edge": 40})
    hf.Idefics3Processor(splitting, words, image_seq_len=25).save_pretrained(folder)
    tiny = TINY["smolvlm"]()
    tiny.model.config.image_token_id = tiny.model.model.image_token_id = words.convert_tokens_to_ids("<image>")
    return _save(tiny.model, words, folder)


def write_refusal(folder: Path) -> Path:
    """A random adapter of that SmolVLM."""
    targets = r".*text_model.*(q|v)_proj"
    tiny = TINY["smolvlm"]()
    return write_adapter(folder, tiny.model, base="", targets=targets)


def _save(model, words, folder):
    model.resize_token_embeddings(len(words))
    model.generation_config.pad_token_id = words.pad_token_id
    model.save_pretrained(folder)
    return folder


WRITERS = {"llava15-pope-chair": write_checkpoint, "qwen25vl": write_qwen25vl, "smolvlm-refusal": write_smolvlm}
"""Protocol → what writes a stand-in of its model."""
