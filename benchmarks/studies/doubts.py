"""Whether doubts find the mentions that are made up, where the truth is known, and what leaving these out changes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import scr
from scr import ConfigError, Description, get_method, method_parts
from scr.describing import MEASURES, Calibration, drop_doubtful, feature
from scr.reading import answer_tokens

from ..asking.models import LoadedModel, load_model
from ..records import SampleRecord
from ..running.methods import BASELINE, given_configs
from ..running.plan import Plan, RunConfig, build_plan
from ..stats import Difference, Interval, auc, auc_interval, bootstrap_weights, percentile_interval
from ..tasks.base import Sample

_RECALL = 0.8
_RIDGE = 1.0  # of standardised weights: a normal prior of deviation 1, which few mentions need and many do not notice
_STEPS = 50
_TIMED = 4  # batches


class Mention(NamedTuple):
    """A mention of an object, and whether it is there.

    Attributes:
        image: the name of its image; mentions that share it are no independent observations.
        made_up: whether it is not in the image.
        measures: by name, see `scr.Doubt`.
    """

    image: str
    made_up: bool
    measures: Mapping[str, float]


class Quality(NamedTuple):
    """How well a score finds made-up mentions.

    Attributes:
        name: the measure, or "combined".
        auc: how often a made-up mention has the larger score than a grounded one.
        auc_interval: 95 %, over images.
        precision: share of made-up ones among those with the largest scores, of which so many are taken as hold 80 % of
            all made-up ones.
        precision_interval: 95 %, over images.
    """

    name: str
    auc: float | None
    auc_interval: Interval | None
    precision: float | None
    precision_interval: Interval | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """The descriptions of a split's images, and the truth.

    Attributes:
        plan: what was run.
        loaded: the model.
        samples: what was asked.
        found: the descriptions, sample by sample.
    """

    plan: Plan
    loaded: LoadedModel
    samples: Sequence[Sample]
    found: Sequence[Description]

    @property
    def mentions(self) -> list[Mention]:
        """All mentions of objects, of which every measure is known."""
        return [
            Mention(
                sample.unit_name, one.category not in sample.target, {name: getattr(one, name) for name in MEASURES}
            )
            for sample, description in zip(self.samples, self.found, strict=True)
            for one in description.doubts
            if one.category is not None and all(getattr(one, name) is not None for name in MEASURES)
        ]

    def records(self, found: Sequence[Description]) -> list[SampleRecord]:
        """Descriptions of the same images as CHAIR scores them."""
        return [
            SampleRecord(
                id=sample.id, image=sample.unit_name, prompt=sample.prompt, target=sample.target, output=one.text
            )
            for sample, one in zip(self.samples, found, strict=True)
        ]


def describe_split(config: RunConfig) -> Study:
    """Describe the images of a split, with every measure of doubt.

    Args:
        config: of the task `chair`, or another that knows the objects of an image; its methods have no part.

    Raises:
        ConfigError: for a model whose yes and no cannot be told apart, an image that cannot be used, or as
            `benchmarks.running.plan.build_plan`.
    """
    torch.set_flush_denormal(True)
    plan = build_plan(config)
    loaded = load_model(plan.source, dtype=plan.dtype, device=str(plan.device))
    reason = answer_tokens(loaded.processor.tokenizer).reason
    if reason is not None:
        raise ConfigError(
            f"recheck cannot be measured: got {loaded.name} ({reason}); expected a model whose yes and no can be told "
            "apart. Take another one."
        )
    samples = plan.cells[0].work.wanted_samples
    return Study(plan=plan, loaded=loaded, samples=samples, found=_described(plan, loaded, samples))


def _described(plan: Plan, loaded: LoadedModel, samples: Sequence[Sample], **options: Any) -> list[Description]:
    cell = plan.cells[0]
    found = scr.describe(
        loaded.model,
        loaded.processor,
        [one.image for one in samples],
        samples[0].prompt,
        batch_size=cell.work.batch_size,
        **cell.generation,
        **options,
    )
    for one in found:
        if one.error is not None:
            raise ConfigError(f"an image that cannot be used: {one.error} Mend the data set.")
    return list(found)


def calibrate(mentions: Sequence[Mention]) -> tuple[float, dict[str, float]]:
    """Intercept and weights of the logistic regression of being made up on the measures' features, slightly shrunk.

    Raises:
        ConfigError: where all mentions are made up, or none.
    """
    truth = np.array([one.made_up for one in mentions], dtype=np.float64)
    if not 0 < truth.sum() < len(truth):
        raise ConfigError(
            f"nothing to learn from: got {int(truth.sum())} made-up mentions of {len(truth)}; expected some of both "
            "kinds. Describe more images."
        )
    values = np.array([[feature(name, one.measures[name]) for name in MEASURES] for one in mentions])
    # A measure that is the same of all mentions tells nothing, and gets no weight.
    mean, deviation = values.mean(axis=0), np.where(np.ptp(values, axis=0) > 0, values.std(axis=0), 1.0)
    rows = np.column_stack([np.ones(len(values)), (values - mean) / deviation])
    penalty = np.diag([0.0] + [_RIDGE] * len(MEASURES))
    found = np.zeros(rows.shape[1])
    for _ in range(_STEPS):  # Newton's, which has converged long before
        share = 1 / (1 + np.exp(-rows @ found))
        slope = rows.T @ (share - truth) + penalty @ found
        found -= np.linalg.solve((rows.T * (share * (1 - share))) @ rows + penalty, slope)
    weights = found[1:] / deviation
    return float(found[0] - weights @ mean), {name: float(one) for name, one in zip(MEASURES, weights, strict=True)}


def qualities(mentions: Sequence[Mention], calibration: Calibration | None) -> list[Quality]:
    """How well each measure, its sign turned, and their combination find what is made up.

    Raises:
        ConfigError: where nothing is mentioned.
    """
    if not mentions:
        raise ConfigError(
            "nothing to judge: got descriptions without a mention of an object; expected some. Describe more images."
        )
    scores = {name: [-one.measures[name] for one in mentions] for name in MEASURES}
    if calibration is not None:
        scores["combined"] = [_score(calibration, one.measures) for one in mentions]
    truth, images = np.array([one.made_up for one in mentions]), [one.image for one in mentions]
    found = []
    for name, given in scores.items():
        values = np.array(given)
        whole = _precision(values, truth, np.ones((1, len(values))))[0]
        drawn = [_precision(values, truth, part) for part in bootstrap_weights(images)]
        found.append(
            Quality(
                name=name,
                auc=auc(values, truth),
                auc_interval=auc_interval(values, truth, images),
                precision=None if np.isnan(whole) else float(whole),
                precision_interval=percentile_interval(np.concatenate(drawn)) if drawn else None,
            )
        )
    return found


def _score(calibration: Calibration, measures: Mapping[str, float]) -> float:
    score = calibration.score(measures)
    assert score is not None, "every measure is known"
    return score


def _precision(
    scores: NDArray[np.float64], truth: NDArray[np.bool_], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Precision at 80 % recall for each row of weights, (rows, n) → (rows,); mentions with equal scores go together."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    taken = weights[:, order].cumsum(axis=1)[:, ends]
    right = (weights * truth)[:, order].cumsum(axis=1)[:, ends]
    enough = right >= _RECALL * right[:, -1:]
    place = enough.argmax(axis=1)[:, None]
    above, below = np.take_along_axis(right, place, axis=1)[:, 0], np.take_along_axis(taken, place, axis=1)[:, 0]
    return np.divide(above, below, out=np.full(len(weights), np.nan), where=right[:, -1] > 0)


class Row(NamedTuple):
    """What CHAIR says of the captions under one condition.

    Attributes:
        name: the condition.
        chair_i: share of made-up mentions.
        recall: share of the objects in the images that are named.
        chair_i_change: its difference to the captions as they are, with its interval over images; None of these.
        recall_change: likewise.
    """

    name: str
    chair_i: float | None
    recall: float | None
    chair_i_change: Difference | None = None
    recall_change: Difference | None = None


def left_out(
    study: Study, calibration: Calibration, thresholds: Sequence[float], methods: Sequence[str]
) -> Iterator[Row]:
    """CHAIR of the captions as they are, without what is doubtful, and under methods of decoding.

    Args:
        study: the descriptions.
        calibration: what scores them.
        thresholds: values of `drop_above`.
        methods: names, with the settings that the checkpoint comes with.
    """
    scored = [_scored(one, calibration) for one in study.found]
    chair, before = study.plan.cells[0].work.task, study.records(study.found)
    conditions = [(f"drop_above={above:g}", [drop_doubtful(one, above) for one in scored]) for above in thresholds]
    metrics = chair.score(before).metrics
    yield Row(BASELINE, metrics["chair_i"], metrics["recall"])
    given = given_configs(methods, study.plan.source, {})
    for name in methods:
        configs = [get_method(part).configure(given[part]) for part in method_parts(name)]
        conditions.append((name, _described(study.plan, study.loaded, study.samples, doubts=(), method=configs)))
    for name, found in conditions:
        after = study.records(found)
        metrics, differences = chair.score(after).metrics, chair.compare(before, after).differences
        changes = differences.get("chair_i"), differences.get("recall")
        yield Row(name, metrics["chair_i"], metrics["recall"], *changes)


def _scored(description: Description, calibration: Calibration) -> Description:
    """The description with scores, which need no model."""
    values = description.to_dict()
    for one in values["doubts"]:
        one["score"] = None if one["category"] is None else calibration.score(one)
    return Description.from_dict({**values, "calibration": calibration.name})


def costs(study: Study) -> dict[str, float]:
    """What each measure adds to the time of a description without doubts, as a share of it; the median over batches."""
    size = study.plan.cells[0].work.batch_size
    variants: dict[str, tuple[str, ...]] = {"": (), **{name: (name,) for name in MEASURES}, "combined": tuple(MEASURES)}
    times: dict[str, list[float]] = {name: [] for name in variants}
    for start in range(0, min(_TIMED * size, len(study.samples)), size):
        for name, doubts in variants.items():
            began = time.perf_counter()
            _described(study.plan, study.loaded, study.samples[start : start + size], doubts=doubts)
            times[name].append(time.perf_counter() - began)
    return {
        name: float(np.median([own / base for own, base in zip(times[name], times[""], strict=True)])) - 1
        for name in variants
        if name
    }
