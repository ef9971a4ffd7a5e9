"""One question under several conditions: methods and adapters take turns on one model; their answers, compared.

`scr.describe` answers; here its answers are timed by turns and set beside each other.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

import scr
from scr import CombinedConfig, ConfigError, method_parts
from scr.adapters import AdapterSource
from scr.describing import read_image
from scr.reading import AnswerTokens, answer_tokens

from ..asking.finite import FiniteLogits
from ..asking.models import LoadedModel, ModelSource
from ..asking.timing import FirstTokenProbe, StepTimes
from ..lab import data_folder
from ..running.methods import Configs
from ..running.plan import LAB_SPLIT
from .wording import Piece, word_differences

_YES_NO = re.compile(r"\W*(?:yes|no)\b", re.IGNORECASE)


class Condition(NamedTuple):
    """What is put on the model: an adapter or none, and inside it a method, "none" for no method."""

    method: str
    adapter: AdapterSource | None = None

    @property
    def name(self) -> str:
        """As `benchmarks.run` calls it."""
        if self.adapter is None:
            return self.method
        return self.adapter.name if self.method == "none" else f"{self.adapter.name}, {self.method}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """The answer under one condition.

    Attributes:
        condition: what was on the model.
        output: the answer.
        margin: logit of yes minus logit of no at the first token; None where the answer begins with neither.
        new_tokens: how many tokens it has.
        prefill_ms: median over the rounds, to the first token.
        total_ms: median over the rounds, to the last token.
        differences: words that it has and the first condition's answer has not, and the reverse.
    """

    condition: Condition
    output: str
    margin: float | None
    new_tokens: int
    prefill_ms: float
    total_ms: float
    differences: list[Piece]

    @property
    def changed(self) -> bool:
        """Whether a word differs from the first condition's answer."""
        return any(piece.kind != "same" for piece in self.differences)


def compare_answers(
    loaded: LoadedModel,
    image: Path,
    prompt: str,
    conditions: Sequence[Condition],
    given: Configs,
    *,
    generation: Mapping[str, Any],
    rounds: int = 3,
    report: Callable[[str], None] = lambda line: None,
) -> list[Compared]:
    """Ask one question once per condition and round; they take turns, so that a busy machine slows all of them.

    Args:
        loaded: the model.
        image: the picture's file.
        prompt: the question.
        conditions: what is put on the model; the first one's answer is compared with.
        given: as `benchmarks.running.methods.given_configs`, of all methods in the conditions.
        generation: arguments of `generate`.
        rounds: how many are timed; one more before them is thrown away, as the first forward allocates.
        report: is told what happens.

    Raises:
        ConfigError: if the picture cannot be used.
        NotFiniteError: if the model's logits are no finite numbers.
    """
    tokens = answer_tokens(loaded.processor.tokenizer)
    answers: list[list[_Answer]] = [[] for _ in conditions]
    for number in range(rounds + 1):
        report("warming up" if number == 0 else f"round {number} of {rounds}")
        for condition, found in zip(conditions, answers, strict=True):
            found.append(_answer(loaded, image, prompt, condition, given, generation, tokens))
    first = answers[0][0].text
    compared = []
    for condition, found in zip(conditions, answers, strict=True):
        text, timed = found[0].text, found[1:]
        compared.append(
            Compared(
                condition=condition,
                output=text,
                margin=found[0].margin if _YES_NO.match(text) else None,
                new_tokens=found[0].new_tokens,
                prefill_ms=statistics.median(one.prefill_ms for one in timed),
                total_ms=statistics.median(one.total_ms for one in timed),
                differences=word_differences(first, text),
            )
        )
    return compared


class _Answer(NamedTuple):
    text: str
    margin: float | None
    new_tokens: int
    prefill_ms: float
    total_ms: float


def _answer(
    loaded: LoadedModel,
    image: Path,
    prompt: str,
    condition: Condition,
    given: Configs,
    generation: Mapping[str, Any],
    tokens: AnswerTokens,
) -> _Answer:
    # In this order: what looks at the logits comes after the method's own processors.
    device = loaded.model.device
    probe, times = FirstTokenProbe(1, tokens, device), StepTimes(device)
    (said,) = scr.describe(
        loaded.model,
        loaded.processor,
        [image],
        prompt,
        method=CombinedConfig.from_dict({part: given[part] for part in method_parts(condition.method)}),
        adapter=condition.adapter,
        doubts=(),
        logits_processor=[probe, times, FiniteLogits([str(image)])],
        **generation,
    )
    if said.error is not None:
        raise ConfigError(said.error)
    # After the first logits come the other steps; before them vision tower, prefill and a method's passes.
    return _Answer(
        said.text,
        next(iter(probe.margins), None),
        times.steps,
        said.milliseconds - times.after_first_ms,
        said.milliseconds,
    )


def find_images(given: Sequence[Path], source: ModelSource) -> list[Path]:
    """The pictures that are asked about, each once and checked before anything is loaded."""
    if not given:
        if not source.is_lab:
            raise ConfigError(
                f"no image: got model {source.name!r} without a picture; expected one, as only lab models bring "
                "pictures. Give --image FILE."
            )
        return [min((data_folder(LAB_SPLIT, 1, source.name) / LAB_SPLIT).iterdir())]
    found = list(dict.fromkeys(image for one in given for image in (_pictures(one) if one.is_dir() else [one])))
    for image in found:
        _check_picture(image)
    return found


def _pictures(folder: Path) -> list[Path]:
    known = Image.registered_extensions()
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in known and path.is_file())
    if not found:
        raise ConfigError(
            f"no pictures: got folder {str(folder)!r} without one; expected files that end in .jpg, .png or their "
            "like. Check the path."
        )
    return found


def _check_picture(path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"no such image: got {str(path)!r}; expected a picture's file. Check the path.")
    read_image(path)
