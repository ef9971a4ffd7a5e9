"""A word-level tokenizer for the lab's language: the same words for every family, between its own special tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ..world.language import all_words

__all__ = ["CHATML", "SpecialTokens", "build_tokenizer"]

# Turns as Qwen2-VL and InternVL3 have them; IMAGE stands for what a family puts where an image goes.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ 'IMAGE' }}{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# Words are stored in lower case so that any spelling is understood; what starts a sentence gets its capital back here.
_SENTENCE_STARTS = ("yes", "no", "a", "an", "the", "there", "is", "please")


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """The tokens of a family that are no words.

    Attributes:
        tokens: All of them, `<unk>` included, in the order of their identities from 0.
        pad: What fills up a batch.
        begin: What starts every text; None for nothing.
        end: What ends an answer.
        image: The placeholder of image tokens.
        named: Attributes of the tokenizer by which the family's processor finds some of them.
    """

    tokens: tuple[str, ...]
    pad: str
    begin: str | None
    end: str
    image: str
    named: dict[str, str] = field(default_factory=dict)


def build_tokenizer(special: SpecialTokens) -> PreTrainedTokenizerFast:
    """Build the tokenizer; a word of its vocabulary is one token in any mixture of cases, others are ``<unk>``.

    Args:
        special: The family's tokens.
    """
    vocabulary = {word: index for index, word in enumerate((*special.tokens, *all_words()))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    if special.begin is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{special.begin} $A",
            pair=f"{special.begin} $A $B",
            special_tokens=[(special.begin, vocabulary[special.begin])],
        )
    capitals = [decoders.Replace(Regex(rf"(^|(?<=[.?] )){word}\b"), word.capitalize()) for word in _SENTENCE_STARTS]
    tokenizer.decoder = decoders.Sequence(
        [decoders.WordPiece("##", cleanup=True), decoders.Fuse(), decoders.Replace(" :", ":"), *capitals]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=special.pad,
        bos_token=special.begin,
        eos_token=special.end,
        unk_token="<unk>",
        extra_special_tokens=special.named,
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
