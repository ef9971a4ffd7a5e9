"""Rows as a model is trained on them: prompt, image and answer in one sequence, labels on the answer alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from PIL import Image
from torch import Tensor
from transformers import ChameleonProcessor

from ..errors import ConfigError
from .rows import Row

IGNORED = -100


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """Rows, encoded.

    Attributes:
        rows: the rows.
        inputs: what the model's forward gets.
        labels: the tokens of the answers and of the ends; everything else is −100.
    """

    rows: Sequence[Row]
    inputs: dict[str, Any]
    labels: Int[Tensor, "rows length"]

    @property
    def places(self) -> Bool[Tensor, "rows length-1"]:
        """The tokens whose next one is a label: there the model says what it would answer, the first token included."""
        return self.labels[:, 1:] != IGNORED

    @property
    def targets(self) -> Int[Tensor, "tokens"]:
        """The labels, in the order of `places`."""
        return self.labels[:, 1:][self.places]


def format_prompt(processor: Any, question: str, *, with_image: bool = True) -> str:
    """A question in the model's own turns, with its image: its chat template, or LLaVA-1.5's form without one."""
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}] * with_image + [{"type": "text", "text": question}]
        text: str = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        return text
    image = f"{getattr(processor, 'image_token', '<image>')}\n" if with_image else ""
    return f"USER: {image}{question} ASSISTANT:"


def encode_rows(processor: Any, rows: Sequence[Row], max_tokens: int, device: Any = None, dtype: Any = None) -> Batch:
    """Encode rows.

    Args:
        processor: the model's.
        rows: the rows.
        max_tokens: longest row; the end of an answer is cut off there.
        device: where tensors go.
        dtype: of pixels.

    Raises:
        ConfigError: for an image that cannot be opened; a row whose prompt and image alone are too long, since an
            image must not be cut; an answer that does not begin where its prompt ends; what the processor cannot take.
            All name the row.
    """
    check_rows(processor, rows)
    tokenizer = processor.tokenizer
    prompts = [format_prompt(processor, row.question) for row in rows]
    # In turns, an answer follows its prompt at once; after "ASSISTANT:" there is a blank.
    between, whole = "" if prompts[0][-1].isspace() else " ", {}
    if isinstance(processor, ChameleonProcessor):
        # It ends what it is given with a mark; here that is the prompt, and the answer follows.
        between, whole = "", {"return_for_text_completion": True}
        prompts = [f"{prompt}{tokenizer.sep_token}" for prompt in prompts]
    texts = [f"{prompt}{between}{row.answer}{tokenizer.eos_token}" for prompt, row in zip(prompts, rows, strict=True)]
    begin = tokenizer.bos_token
    special = not (begin and texts[0].startswith(begin))  # a template may write the begin token itself
    images = [[_open(row)] for row in rows]
    options = {"padding": True, "return_tensors": "pt", "add_special_tokens": special, **whole}
    with taken_by_processor("rows", ", ".join(row.name for row in rows)):
        inputs = dict(processor(text=texts, images=images, **options))
    answers = [
        _answer_tokens(tokenizer, prompt, text, special, row)
        for prompt, text, row in zip(prompts, texts, rows, strict=True)
    ]
    labels = _label(inputs["input_ids"], inputs["attention_mask"], answers, rows)
    if int(inputs["attention_mask"].sum(dim=1).max()) > max_tokens:
        inputs, labels = _cut(inputs, labels, rows, max_tokens)
    moved = {
        name: value.to(device, dtype if value.is_floating_point() else None) if isinstance(value, Tensor) else value
        for name, value in inputs.items()
    }
    return Batch(rows=rows, inputs=moved, labels=labels.to(device))


@contextlib.contextmanager
def taken_by_processor(
    what: str, got: str, expected: str = "text and a picture", todo: str = "Mend or drop them."
) -> Iterator[None]:
    """Say of whatever a processor raises inside the `with` what it was given; a full memory stays one.

    Args:
        what: the kind of things that it was given.
        got: which of them.
        expected: what it takes.
        todo: what to do about it.

    Raises:
        ConfigError: in place of the processor's own errors, which are those of its image libraries.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{what} that the processor cannot take: got {got} ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}); expected {expected}. {todo}"
        ) from error


def check_rows(processor: Any, rows: Iterable[Row]) -> None:
    """Refuse text with a token that the processor writes for an image: it would be counted as a second one.

    Raises:
        ConfigError: naming the row.
    """
    tokens = {value for name, value in vars(processor).items() if name.endswith("_token") and isinstance(value, str)}
    for row in rows:
        for token in tokens:
            if token and (token in row.question or token in row.answer):
                raise ConfigError(
                    f"a token of the model's own in a text: got {token!r} in {row.name}; expected text alone, since "
                    "the prompt has one image, and the processor marks its place. Take it out of the row."
                )


def _open(row: Row) -> Image.Image:
    try:
        with Image.open(row.image) as image:
            return image.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # of a broken file almost anything; of an enormous one PIL's DecompressionBombError
        raise ConfigError(
            f"no picture: got {row.image} in {row.name} ({error}); expected an image file. Mend or drop the row."
        ) from error


def _answer_tokens(tokenizer: Any, prompt: str, text: str, special: bool, row: Row) -> list[int]:
    """The tokens of the answer and its end."""
    before = tokenizer(prompt, add_special_tokens=special)["input_ids"]
    whole = tokenizer(text, add_special_tokens=special)["input_ids"]
    if tokenizer.eos_token_id == before[-1]:  # one that is written after every text is none of the prompt's
        before = before[:-1]
    if whole[: len(before)] != before:
        raise ConfigError(
            f"an answer that does not begin where its prompt ends: got {row.answer[:40]!r} in {row.name}, whose first "
            "characters become one token with the prompt's last; expected a turn marker or a blank between. "
            "Begin the answer with a word."
        )
    answer: list[int] = whole[len(before) :]
    return answer


def _label(tokens: Tensor, mask: Tensor, answers: Sequence[Sequence[int]], rows: Sequence[Row]) -> Tensor:
    labels = torch.full_like(tokens, IGNORED)
    for index, answer in enumerate(answers):
        end = int(mask[index].nonzero()[-1]) + 1
        last = tokens[index, end - len(answer) : end]
        if last.tolist() != list(answer):
            raise ConfigError(
                f"a processor that writes after the answer: got tokens {last.tolist()} at the end of "
                f"{rows[index].name}; expected {list(answer)}, the answer and its end. This model cannot be trained."
            )
        labels[index, end - len(answer) : end] = last
    return labels


def _cut(inputs: dict[str, Any], labels: Tensor, rows: Sequence[Row], max_tokens: int) -> tuple[dict[str, Any], Tensor]:
    """Cut the ends of long answers, and the columns that only they needed."""
    mask, shape = inputs["attention_mask"].clone(), labels.shape
    for index, row in enumerate(rows):
        real = mask[index].nonzero().flatten()
        if len(real) <= max_tokens:
            continue
        # At least one token of the answer must be left to learn from.
        needed = int((labels[index] == IGNORED)[real].sum()) + 1
        if needed > max_tokens:
            raise ConfigError(
                f"prompt and image do not fit: got {needed - 1} tokens before the answer in {row.name}; expected fewer "
                f"than max_tokens = {max_tokens}, since an image must not be cut. Raise max_tokens, or drop the row."
            )
        mask[index, real[max_tokens:]] = 0
    labels = labels.masked_fill(mask == 0, IGNORED)
    kept = mask.any(dim=0)
    cut = {
        name: value[:, kept] if isinstance(value, Tensor) and value.shape == shape else value
        for name, value in {**inputs, "attention_mask": mask}.items()
    }
    return cut, labels[:, kept]
