"""Ask a loaded model one batch of questions: images and prompts in, answers with margins and times out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from scr import SCRError
from scr.describing import encode_prompts
from scr.reading import AnswerTokens, answer_tokens

from ..records import Readout
from .finite import FiniteLogits
from .models import LoadedModel
from .sampling import sampling
from .stopping import StopTexts
from .timing import FirstToken, FirstTokenProbe, synchronize


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the model is asked.

    Attributes:
        id: the sample's id; with the seed it decides how a sampled answer falls.
        image: the picture's file; None for a question about no picture.
        prompt: the text, without the model's own turn markers.
    """

    id: str
    image: Path | None
    prompt: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back.

    Attributes:
        text: the answer as decoded, special tokens and white space at both ends left out.
        margin: see `scr.reading.answer_margins`; None if it was not asked for.
        new_tokens: generated tokens, the end token included.
        prefill_ms: see `benchmarks.asking.timing.BatchTiming`.
        decode_ms: likewise.
        first_token: id of the first generated token; None if there is none.
        readout: see `benchmarks.records.Readout`; None where there is no margin.
    """

    text: str
    margin: float | None
    new_tokens: int
    prefill_ms: float
    decode_ms: float
    first_token: int | None = None
    readout: Readout | None = None


class RefusedError(SCRError, ValueError):
    """Questions cannot be asked: their pictures cannot be read, or the model's processor refuses them.

    Attributes:
        problems: id of each of them → why.

    Args:
        problems: likewise.
    """

    def __init__(self, problems: Mapping[str, str]) -> None:
        first, reason = next(iter(problems.items()))
        others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(f"sample {first!r}{others}: {reason}")
        self.problems = dict(problems)


class Answerer:
    """Generates answers with one model; whatever method is patched onto the model meanwhile takes part."""

    def __init__(self, loaded: LoadedModel) -> None:
        """Look up what is the same for every batch."""
        self._model: Any = loaded.model
        self._processor = loaded.processor
        self._tokenizer = loaded.processor.tokenizer
        self.answer_tokens: AnswerTokens = answer_tokens(self._tokenizer)

    def answer(
        self, questions: Sequence[Question], generation: Mapping[str, Any], *, seed: int, margins: bool
    ) -> list[Answer]:
        """Answer one batch; questions without an image are asked apart from the others, as not every processor mixes.

        Args:
            questions: the batch, at most one image each.
            generation: keyword arguments of `generate`.
            seed: of sampling, if `do_sample` is set: how an answer falls is a function of the seed and of its id.
            margins: whether to measure the margin between yes and no.

        Raises:
            RefusedError: if questions cannot be asked; the others can be, without them.
            NotFiniteError: if the model's logits are no finite numbers.
        """
        shown = [question.image is not None for question in questions]
        if len(set(shown)) > 1:
            parts = [[one for one, has in zip(questions, shown, strict=True) if has is part] for part in (True, False)]
            with_image, without = (iter(self.answer(part, generation, seed=seed, margins=margins)) for part in parts)
            return [next(with_image if has else without) for has in shown]
        inputs = self.encode(questions)
        device, start = self._model.device, inputs["input_ids"].shape[1]
        names = [question.id for question in questions]
        probe = FirstTokenProbe(len(questions), self.answer_tokens if margins else None, device)
        options = {"pad_token_id": self._tokenizer.pad_token_id, **generation}
        stop_texts = options.pop("stop_strings", None)
        stop = None if stop_texts is None else StopTexts(self._tokenizer, start, stop_texts)
        drawn = sampling(seed, names, device) if generation.get("do_sample") else contextlib.nullcontext()
        with torch.inference_mode(), drawn:
            synchronize(device)
            started = time.perf_counter()
            sequences = self._model.generate(
                **inputs,
                **options,
                logits_processor=[probe, FiniteLogits(names)],
                stopping_criteria=[] if stop is None else [stop],
            )
            synchronize(device)
            timing = probe.timing(started, time.perf_counter())
        new = _cut(sequences[:, start:].cpu(), self._end_tokens(generation))
        nothing = [None] * len(questions)
        cut = [(self._decode(row), len(row)) if stop is None else stop.cut(row) for row in new]
        return [
            Answer(
                text=text.strip(),
                margin=margin,
                new_tokens=length,
                prefill_ms=timing.prefill_ms,
                decode_ms=timing.decode_ms,
                first_token=next(iter(row), None),
                readout=self._readout(first),
            )
            for (text, length), margin, first, row in zip(
                cut, probe.margins or nothing, probe.first or nothing, new, strict=True
            )
        ]

    def encode(self, questions: Sequence[Question]) -> dict[str, Any]:
        """What `generate` gets for a batch, on the model's device; all of its questions have an image, or none.

        Raises:
            RefusedError: if questions cannot be asked.
        """
        try:
            return self._encode(questions)
        except Exception as error:
            problems = self._problems(questions)
            if not problems:
                raise  # a fault of the batch as a whole
            raise RefusedError(problems) from error

    def _problems(self, questions: Sequence[Question]) -> dict[str, str]:
        """Id → why a question cannot be asked by itself."""
        problems = {}
        for question in questions:
            try:
                self._encode([question])
            except (MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # Pillow and processors raise whatever a broken picture leads them to
                what = "a question" if question.image is None else f"picture {str(question.image)!r}"
                problem = " ".join(str(error).split())
                problems[question.id] = (
                    f"{what} cannot be used: got {type(error).__name__}: {problem}; expected one that Pillow reads "
                    "and the model's processor takes. Mend it, or go on without it by --on-error record."
                )
        return problems

    def _encode(self, questions: Sequence[Question]) -> dict[str, Any]:
        # Questions about one image lie beside each other, so that each file is read once per batch.
        images = {path: _read(path) for path in (question.image for question in questions) if path is not None}
        prompts = [one.prompt for one in questions]
        shown = [images[one.image] for one in questions if one.image is not None] or None
        return encode_prompts(self._model, self._processor, prompts, shown)

    def _decode(self, row: Sequence[int]) -> str:
        return str(self._tokenizer.decode(row, skip_special_tokens=True))

    def _readout(self, first: FirstToken | None) -> Readout | None:
        if first is None:
            return None
        return Readout(token=first.token, text=str(self._tokenizer.decode([first.token])), mass=first.mass)

    def _end_tokens(self, generation: Mapping[str, Any]) -> set[int]:
        end = generation.get("eos_token_id", self._model.generation_config.eos_token_id)
        return set() if end is None else {end} if isinstance(end, int) else set(end)


def _read(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _cut(tokens: Tensor, ends: set[int]) -> list[list[int]]:
    """Each row (rows × new tokens) up to its end token, which counts; what follows it is padding."""
    rows = tokens.tolist()
    return [row[: next((index + 1 for index, token in enumerate(row) if token in ends), len(row))] for row in rows]
