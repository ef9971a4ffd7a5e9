"""A word-level tokenizer for the lab's language, and the processor that a LLaVA checkpoint is saved with."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

from .language import all_words

__all__ = ["CHAT_TEMPLATE", "SPECIAL_TOKENS", "build_processor", "build_tokenizer"]

# Identities 0–4, in this order.
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "<image>")

# LLaVA-1.5's turns, on one line per message as its checkpoints have them.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ 'USER: ' if message['role'] == 'user' else 'ASSISTANT: ' if message['role'] == 'assistant' else '' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\\n' }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}"
    "{{ '</s>' if message['role'] == 'assistant' else ' ' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)

# Words are stored in lower case so that any spelling is understood; what starts a sentence gets its capital back here.
_SENTENCE_STARTS = ("yes", "no", "a", "an", "the", "there", "is", "please")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer; a word of its vocabulary is one token in any mixture of cases, others are ``<unk>``."""
    vocabulary = {word: index for index, word in enumerate((*SPECIAL_TOKENS, *all_words()))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    capitals = [decoders.Replace(Regex(rf"(^|(?<=[.?] )){word}\b"), word.capitalize()) for word in _SENTENCE_STARTS]
    tokenizer.decoder = decoders.Sequence(
        [decoders.WordPiece("##", cleanup=True), decoders.Fuse(), decoders.Replace(" :", ":"), *capitals]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def build_processor(image_size: int, patch_size: int) -> LlavaProcessor:
    """Build the processor: any image is resized to the model's square, one placeholder per patch.

    Args:
        image_size: Side of the model's input, in pixels.
        patch_size: Side of a patch, in pixels.
    """
    square = {"height": image_size, "width": image_size}
    image_processor = CLIPImageProcessorPil(
        size=square,
        crop_size=square,
        do_center_crop=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=build_tokenizer(),
        patch_size=patch_size,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        # The class token, which the strategy "default" takes off again.
        num_additional_image_tokens=1,
    )
