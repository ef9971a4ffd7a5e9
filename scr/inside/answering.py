"""A model under a method that answers an evaluation tool's requests: conversations with pictures, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from ..adapters import load_adapter
from ..adapters.encoding import taken_by_processor
from ..checkpoints.chosen import find_device, locate
from ..checkpoints.loading import load_processor, load_weights
from ..errors import ConfigError
from ..files import parse_json
from ..patching.prepare import patch

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_OF_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p")
_NOT_OURS = ("until", "image_aspect_ratio")  # where an answer ends, and what one family's own code makes of pictures

# A conversation as chat templates take it, pictures as PIL images in it.
_Messages = Sequence[Mapping[str, Any]]


class AnsweringModel:
    """A model, its processor and a method."""

    def __init__(
        self,
        pretrained: str,
        *,
        method: str = "none",
        method_args: str | Mapping[str, Any] = "",
        peft: str | None = None,
        revision: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        attn_implementation: str | None = None,
        batch_size: int = 1,
    ) -> None:
        """Load the model, put the adapter on, and check the method.

        Args:
            pretrained: a hub id, a folder, or a name such as lab/llava.
            method: as `scr.patch` takes it.
            method_args: its fields, as a mapping or as a JSON object.
            peft: an adapter, as `scr.adapter` takes it.
            revision: commit or branch of a hub model.
            dtype: float32, bfloat16 or float16; "auto" is the checkpoint's.
            device: cpu, cuda or auto.
            attn_implementation: as transformers takes it.
            batch_size: conversations at once.

        Raises:
            ConfigError: for an argument that cannot be used.
            ModelLoadError, AdapterLoadError: for a model or an adapter that cannot be loaded.
        """
        location = locate(pretrained).as_posix()  # on Windows, too, a hub id has a slash
        options = {"revision": revision} if revision is not None else {}
        if dtype not in (*_DTYPES, "auto"):
            raise ConfigError(f"unknown dtype: got {dtype!r}; expected auto or one of {list(_DTYPES)}. Choose one.")
        attention = {"attn_implementation": attn_implementation} if attn_implementation is not None else {}
        self.device = find_device(device)
        loaded: Any = load_weights(location, dtype=_DTYPES.get(dtype, "auto"), name=pretrained, **options, **attention)
        self.model = loaded.to(self.device)
        self.processor = load_processor(location, name=pretrained, **options)
        if not getattr(self.processor, "chat_template", None):
            raise ConfigError(
                f"a model that holds no conversations: got {pretrained!r} without a chat template; expected one, by "
                "which messages become a prompt. Put a chat_template.jinja into its folder."
            )
        if peft is not None:
            load_adapter(self.model, peft)
        self.fields = method_args if isinstance(method_args, Mapping) else _fields(method_args)
        self.method, self.batch_size = method, _positive(batch_size)
        patch(self.model, method, **self.fields).config  # noqa: B018  checked here, before hours of questions

    def answers(
        self, conversations: Sequence[tuple[_Messages | Callable[[], _Messages], Mapping[str, Any]]]
    ) -> list[str]:
        """What the model says, in the order in which it is asked.

        Args:
            conversations: messages as chat templates take them, pictures as PIL images in them; or what gives them and
                is called when it is their turn, so that no more pictures are in memory than a batch has. Each with its
                settings of `generate`; those with equal settings are asked together. Where none of `do_sample` is set,
                a temperature above 0 samples. `until` is a list of texts, before the first of which an answer ends.

        Raises:
            ConfigError: for messages with something other than text and pictures, or that the processor cannot take.
        """
        said: list[str] = [""] * len(conversations)
        if conversations:
            with patch(self.model, self.method, **self.fields):
                for numbers in self._batches(conversations):
                    settings = conversations[numbers[0]][1]
                    asked = [conversations[number][0] for number in numbers]
                    texts = self._answer([one() if callable(one) else one for one in asked], settings)
                    for number, text in zip(numbers, texts, strict=True):
                        said[number] = text
        return said

    def _batches(self, conversations: Sequence[tuple[Any, Mapping[str, Any]]]) -> Iterator[list[int]]:
        alike: dict[str, list[int]] = {}
        for number, (_, settings) in enumerate(conversations):
            alike.setdefault(repr(sorted(settings.items())), []).append(number)
        for numbers in alike.values():
            for start in range(0, len(numbers), self.batch_size):
                yield numbers[start : start + self.batch_size]

    def _answer(self, conversations: Sequence[_Messages], settings: Mapping[str, Any]) -> list[str]:
        texts = self.processor.apply_chat_template(conversations, add_generation_prompt=True, tokenize=False)
        pictures = [_pictures(messages) for messages in conversations]
        options: dict[str, Any] = {"images": pictures} if any(pictures) else {}
        first = self.processor.tokenizer.bos_token
        if first is not None and texts[0].startswith(first):  # the template has put it there: it stands there once
            options["add_special_tokens"] = False
        with taken_by_processor(
            "questions",
            f"{texts[0][-80:]!r} and {len(texts) - 1} more",
            "pictures, and text without the processor's own mark for one",
            "Mend the task, or leave these questions out.",
        ):
            inputs = self.processor(text=texts, **options, padding=True, return_tensors="pt")
        inputs = inputs.to(self.device, self.model.dtype)
        with torch.inference_mode():
            output = self.model.generate(**inputs, **generate_arguments(settings))
        new = output[:, inputs["input_ids"].shape[1] :]
        return [
            until(text, settings.get("until")) for text in self.processor.batch_decode(new, skip_special_tokens=True)
        ]


def generate_arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A task's settings as arguments of `generate`: greedy, unless they sample; 1,024 new tokens, unless they say.

    Args:
        settings: those of lmms-eval's tasks. All are handed on but `until` and, where nothing is sampled, what shapes
            samples.
    """
    found = {name: value for name, value in settings.items() if name not in _NOT_OURS}
    found["do_sample"] = bool(found.get("do_sample", (found.get("temperature") or 0) > 0))
    if not found["do_sample"]:
        found = {name: value for name, value in found.items() if name not in _OF_SAMPLING}
    return {"max_new_tokens": 1024, **found}


def until(text: str, ends: str | Sequence[str] | None) -> str:
    """A text up to the first of some others; blanks around it are cut."""
    for end in [ends] if isinstance(ends, str) else ends or ():
        text = text.split(end, 1)[0] if end else text
    return text.strip()


def _pictures(messages: _Messages) -> list[Any]:
    found = []
    for message in messages:
        for part in message["content"]:
            if part["type"] == "image":
                found.append(part["image"])
            elif part["type"] != "text":
                raise ConfigError(
                    f"a message with {part['type']}: got it in a question; expected text and images. Choose a task of "
                    "images."
                )
    return found


def _fields(text: str) -> dict[str, Any]:
    found = parse_json(text, "method_args") if text else {}
    if not isinstance(found, dict):
        raise ConfigError(
            f'method_args that are no object: got {text[:80]!r}; expected such as {{"contrast": 0.8}}. Write it so.'
        )
    return found


def _positive(number: Any) -> int:
    if not str(number).isdecimal() or int(number) < 1:
        raise ConfigError(f"batch_size out of range: got {number!r}; expected a whole number ≥ 1. Give one.")
    return int(number)
