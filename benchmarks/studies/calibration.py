"""Settings that are chosen on validation: a constant that matches a yes ratio, the thresholds of a strength."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, cast

import scr
from scr import ConfigError
from scr.contrast import Confidence

from ..asking.answering import Answerer, Question
from ..asking.models import load_model
from ..running.methods import BASELINE
from ..running.plan import GREEDY_ROW, Cell, RunConfig, build_plan
from ..running.prompts import YES_NO, apply_prompt
from ..running.runner import run_plan


def match_yes_ratio(margins: Sequence[float], yes: int) -> float:
    """The `shift` of `yes_shift` at which so many answers stay yes: halfway between the two margins beside it.

    Equal margins go together. Where so many cannot be had without parting them, it is as near as whole groups come.

    Args:
        margins: logit of yes minus logit of no of the unpatched model's answers.
        yes: how many of them are to be yes.

    Raises:
        ValueError: if there are not so many margins.
    """
    if not 0 <= yes <= len(margins) or not margins:
        raise ValueError(
            f"no such number of answers: got {yes} of {len(margins)} margins; expected 0 up to their number, which is "
            "not 0. Count the answers to the same questions."
        )
    # Beyond the ends a whole logit: any number would do.
    groups = Counter(margins)
    falling = [max(groups) + 2, *sorted(groups, reverse=True), min(groups) - 2]
    above = list(itertools.accumulate((groups[margin] for margin in falling[1:-1]), initial=0))
    place = min(range(len(above)), key=lambda place: abs(above[place] - yes))
    return (falling[place] + falling[place + 1]) / 2


def yes_shift(config: RunConfig) -> dict[str, Any]:
    """Match the yes ratio of a method by a constant shift of the unpatched model's answers.

    Args:
        config: of one method and yes/no tasks; what is recorded is not computed again.

    Returns:
        `shift`; `yes_ratio` of the method, `yes_ratio_without` of the unpatched model, and `answers`, how many.

    Raises:
        ConfigError: if the method is none, a task asks for captions, or an answer has no margin.
    """
    if len(config.methods) != 1 or config.methods[0] == BASELINE:
        raise ConfigError(f"nothing to match: got methods {config.methods}; expected one other than none. Name it.")
    plan = build_plan(config)
    if captions := sorted({cell.work.task.name for cell in plan.cells if cell.work.task.kind != YES_NO}):
        raise ConfigError(f"answers are no yes or no: got tasks {captions}; expected yes/no tasks. Leave them out.")
    outcomes = run_plan(plan)
    without = [record for one in outcomes if one.cell.row == BASELINE for record in one.records]
    records = [record for one in outcomes if one.cell.row not in (BASELINE, GREEDY_ROW) for record in one.records]
    if missing := sum(record.margin is None for record in without):
        raise ConfigError(
            f"answers without a margin: got {missing} of {len(without)}; expected none. See `reasons` in run.json."
        )
    yes, before = (sum(record.answer == "yes" for record in some) for some in (records, without))
    return {
        "shift": match_yes_ratio([cast(float, record.margin) for record in without], yes),
        "yes_ratio": yes / len(records),
        "yes_ratio_without": before / len(without),
        "answers": len(records),
    }


def confidence_thresholds(config: RunConfig, kind: Confidence = "max_logprob") -> tuple[float, ...]:
    """Thresholds of `QuantileStrength` from the unpatched model's answers.

    Args:
        config: its methods have no part.
        kind: of confidence.
    """
    plan = build_plan(config)
    loaded = load_model(
        plan.source, dtype=plan.dtype, device=str(plan.device), attn_implementation=config.attn_implementation
    )
    answerer = Answerer(loaded)

    def batches(cell: Cell) -> Iterator[Any]:
        # Without an image there is nothing to contrast with.
        wanted = [one for one in cell.work.wanted_samples if one.image is not None]
        size = cell.work.batch_size
        for batch in (wanted[start : start + size] for start in range(0, len(wanted), size)):
            prompts = [apply_prompt(config.prompt, cell.work.task.kind, one.prompt) for one in batch]
            asked = zip(batch, prompts, strict=True)
            inputs = answerer.encode([Question(id=one.id, image=one.image, prompt=prompt) for one, prompt in asked])
            yield {**inputs, "pad_token_id": loaded.processor.tokenizer.pad_token_id, **cell.generation}

    every = (inputs for cell in plan.cells if cell.row == BASELINE for inputs in batches(cell))
    return scr.calibrate_confidence(loaded.model, every, kind=kind)
