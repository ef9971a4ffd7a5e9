"""`scr.describe`: images in; texts out, with the probability of every token and a doubt for every content word."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..adapters import AdapterSource
from ..adapters import adapter as adapt
from ..errors import ConfigError, suggestion
from ..methods import MethodConfig
from ..patching.baseline import BASELINE
from ..patching.prepare import patch
from .answering import answer_batch
from .description import Description, Descriptions, Doubt, Token
from .doubts.confidence import confidence
from .doubts.evidence import evidence
from .doubts.forced import token_logprobs
from .doubts.recheck import recheck
from .doubts.said import Said, SaidWord
from .doubts.scores import Calibration, find_calibration
from .doubts.words import content_words
from .dropping import drop_doubtful
from .images import as_list, name_of
from .preparing import prepare
from .tokens import Written, token_at, write

PROMPT = "Please describe this image in detail."
"""What is asked where nothing else is: CHAIR's prompt."""

# Field of a doubt → what measures it.                                         ← the only line to add for a new measure
MEASURES: dict[str, Callable[[Said], list[list[float | None]]]] = {
    "confidence": confidence,
    "evidence": evidence,
    "recheck": recheck,
}


def describe(
    model: Any,
    processor: Any,
    images: Any,
    prompt: str = PROMPT,
    *,
    method: str | MethodConfig | Sequence[str | MethodConfig] | None = None,
    adapter: str | Path | AdapterSource | None = None,
    batch_size: int = 8,
    doubts: Sequence[str] = tuple(MEASURES),
    calibration: str | Path | Calibration | None = None,
    drop_above: float | None = None,
    **generate: Any,
) -> Descriptions:
    """Ask a model about images, and say which words of its answers may be made up.

        for one in scr.describe(model, processor, ["kitchen.jpg", "street.jpg"], method="scr"):
            print(one.text, one.doubts)

    A token's probability and all doubts are those of the model without the method, so that they mean the same whatever
    method chose the words. They are read off the finished texts: nothing is generated twice.

    Args:
        model: as for `scr.patch`.
        processor: the model's; its chat template is used where it has one.
        images: paths, `file:` URLs, PIL images, arrays or tensors; a list of them, or one. Photos are turned as their
            EXIF says. Of one that cannot be used the description says why, and the others go on.
        prompt: what is asked about each.
        method: as for `scr.patch`: a name, several with "+" between, or a configuration; of a list all, nested in that
            order; None for the model as it is.
        adapter: as for `scr.adapter`; None for none. Doubts are those of the model with it.
        batch_size: how many images are answered about at once.
        doubts: which of `confidence`, `evidence` and `recheck` are measured for each content word; () for no doubts.
            `evidence` costs a forward over the texts, `recheck` one over a short question for each word and image.
        calibration: one that comes with the project, such as "lab/llava", a JSON file, or what `find_calibration`
            returned; None for no scores. See `scr.describing.doubts.scores`.
        drop_above: objects with a higher score are left out where the rest stays a sentence, see
            `scr.describing.dropping`; None leaves all.
        **generate: arguments of `generate`; at most 512 new tokens unless they say otherwise.

    Returns:
        One description per image, in order.

    Raises:
        ConfigError: for an unknown measure or calibration, one that weighs what is not measured, `drop_above` without
            one, several answers per image, or as `scr.patch`.
        AdapterLoadError: as `scr.adapter`.
    """
    scored = None if calibration is None else find_calibration(calibration)
    _check(doubts, scored, drop_above, batch_size, generate)
    given = as_list(images)
    names = [name_of(image, number) for number, image in enumerate(given, start=1)]
    found = Descriptions()
    with contextlib.ExitStack() as stack:
        handle = None if adapter is None else stack.enter_context(adapt(model, adapter))
        methods = [method] if isinstance(method, str | MethodConfig) else list(method or ())
        patches = [patch(model, one) for one in methods]
        name = None if handle is None else handle.source.name
        shared: dict[str, Any] = {"prompt": prompt, "method": row_name(name, "+".join(one.name for one in patches))}
        for start in range(0, len(given), batch_size):
            part = given[start : start + batch_size]
            pictures, inputs, problems = prepare(model, processor, prompt, part)
            said: dict[int, dict[str, Any]] = {index: {"error": problem} for index, problem in problems.items()}
            if inputs is not None:
                answers, milliseconds = answer_batch(model, processor, inputs, patches, generate)
                logprobs = token_logprobs(model, inputs, answers)
                written = [write(processor.tokenizer, answer) for answer in answers]
                words = [_said_words(one) if doubts else [] for one in written]
                batch = Said(
                    model=model,
                    processor=processor,
                    images=list(pictures.values()),
                    inputs=inputs,
                    answers=answers,
                    logprobs=logprobs,
                    words=words,
                )
                doubted = _doubts(batch, written, doubts, scored)
                for index, text, row, own in zip(pictures, written, logprobs, doubted, strict=True):
                    said[index] = {
                        "text": text.text,
                        "tokens": _tokens(text, row.exp().tolist()),
                        "doubts": own,
                        "milliseconds": milliseconds,
                        "calibration": None if scored is None else scored.name,
                    }
            found += [Description(image=names[start + index], **shared, **said[index]) for index in range(len(part))]
    return found if drop_above is None else Descriptions(drop_doubtful(one, drop_above) for one in found)


def _check(
    doubts: Sequence[str],
    calibration: Calibration | None,
    drop_above: float | None,
    batch_size: int,
    generate: Mapping[str, Any],
) -> None:
    for name in doubts:
        if name not in MEASURES:
            raise ConfigError(
                f"unknown measure of doubt: got {name!r}; expected some of {', '.join(MEASURES)}. "
                f"{suggestion(name, MEASURES)}"
            )
    missing = sorted(set(calibration.weights) - set(doubts)) if calibration is not None else []
    if calibration is not None and missing:
        raise ConfigError(
            f"a calibration that weighs more than is measured: got {calibration.name!r} without {', '.join(missing)}; "
            f"expected all of {', '.join(calibration.weights)}. Add them to doubts, or leave the calibration out."
        )
    if drop_above is not None and calibration is None:
        raise ConfigError(
            f"nothing to drop by: got drop_above={drop_above} without a calibration; expected one, as there are no "
            "scores otherwise. Give calibration='lab/llava' or a file, or leave drop_above out."
        )
    if drop_above is not None and not 0 <= drop_above <= 1:
        raise ConfigError(f"drop_above out of range: got {drop_above}; expected a score, 0 to 1. Set it within these.")
    if batch_size < 1:
        raise ConfigError(f"batch_size out of range: got {batch_size}; expected an integer ≥ 1. Set it to 1 or more.")
    if generate.get("num_return_sequences", 1) != 1:
        raise ConfigError(
            f"several answers per image: got num_return_sequences={generate['num_return_sequences']}; expected 1. "
            "Ask several times."
        )


def row_name(adapter: str | None, method: str) -> str:
    """What `Description.method` says of an adapter and methods, either of which may be none."""
    alone = method in ("", BASELINE)
    if adapter is None:
        return BASELINE if alone else method
    return adapter if alone else f"{adapter}, {method}"


def _said_words(written: Written) -> list[SaidWord]:
    return [SaidWord(word, token_at(written.spans, word.span[0])) for word in content_words(written.text)]


def _tokens(written: Written, probabilities: Sequence[float]) -> tuple[Token, ...]:
    return tuple(
        Token(text=written.text[start:end], probability=probability)
        for (start, end), probability in zip(written.spans, probabilities, strict=True)
        if end > start
    )


def _doubts(
    said: Said, written: Sequence[Written], measures: Sequence[str], calibration: Calibration | None
) -> list[tuple[Doubt, ...]]:
    """The doubts of each answer."""
    measured = {name: MEASURES[name](said) for name in measures}
    found = []
    for row, words in enumerate(said.words):
        own = []
        for index, one in enumerate(words):
            (start, end), values = one.word.span, {name: rows[row][index] for name, rows in measured.items()}
            # The regression knows objects of the list alone.
            score = calibration.score(values) if calibration is not None and one.word.category is not None else None
            own.append(
                Doubt(
                    word=written[row].text[start:end],
                    start=start,
                    end=end,
                    category=one.word.category,
                    score=score,
                    **values,
                )
            )
        found.append(tuple(own))
    return found
