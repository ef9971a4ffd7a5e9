"""SEED-style self-distillation: a model learns to say at once what contrastive decoding would make of its words.

After Li et al., ACM MM 2025, arXiv 2507.04680. Its code is not public, and low-rank layers stand in for its adapter; so
this is "SEED-style". Teacher and student are the same weights: the teacher without the adapter, the student with it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from .._hooks import encode_images
from ..contrast import RollingHistory, RollingStrength, confidence, contrast_logits
from ..perturb import perturb_encoded, perturb_inputs
from .encoding import Batch
from .recipe import Distillation, Divergence


@dataclass(frozen=True, eq=False, kw_only=True)
class Loss:
    """The loss of one batch.

    Attributes:
        total: what is minimised.
        parts: name → number, for the log.
        confidences: of the teacher, token by token; what the next steps' strengths depend on.
    """

    total: Float[Tensor, ""]
    parts: Mapping[str, float]
    confidences: Sequence[float] = ()


class AnswerLoss:
    """The cross-entropy of the answers."""

    def __call__(self, model: Any, tuner: Any, batch: Batch) -> Loss:
        """The loss of a batch; gradients reach the adapter."""
        logits = label_logits(model, batch, batch.inputs)
        supervised = functional.cross_entropy(logits, batch.targets)
        return Loss(total=supervised, parts={"sup": float(supervised.detach())})

    def remember(self, confidences: Sequence[float]) -> None:
        """Nothing depends on what came before."""

    def state(self) -> dict[str, Any]:
        """What a later step depends on: nothing."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""


class SEEDLoss:
    """`w·T²·KL(student ‖ purified teacher) + (1 − w)·CE`, over the tokens whose next one is a label; in float32.

    The teacher says what it would on the clean image and on a corrupted one. Its distribution is purified,
    `(1 + β)·clean − β·noisy`, with a β by the quarter into which its confidence falls among those of the last tokens.
    """

    def __init__(self, settings: Distillation) -> None:
        """Start without a memory."""
        self.settings = settings
        self.history: RollingHistory = RollingStrength(strengths=settings.strengths, history=settings.history).start()
        self._known: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    def __call__(self, model: Any, tuner: Any, batch: Batch) -> Loss:
        """The loss of a batch; gradients reach the adapter."""
        settings = self.settings
        clean, noisy, encoded = self._teach(model, tuner, batch)
        sure = confidence(clean)
        strength = self.history.strength(sure)
        teacher = contrast_logits(clean, noisy, strength)
        student = label_logits(model, batch, encoded)
        distilled = divergence(student, teacher, settings.temperature, settings.divergence).mean()
        supervised = functional.cross_entropy(student, batch.targets)
        total = settings.distil_weight * distilled + (1 - settings.distil_weight) * supervised
        parts = {
            "dist": float(distilled.detach()),
            "sup": float(supervised.detach()),
            "strength": float(strength.mean()),
            "confidence": float(sure.mean()),
        }
        return Loss(total=total, parts=parts, confidences=sure.tolist())

    def remember(self, confidences: Sequence[float]) -> None:
        """Add the confidences of a step, of all its batches and processes in their order; but for those that are none.

        A step whose numbers overflowed is left out, and the next ones need quantiles.
        """
        self.history.remember([one for one in confidences if math.isfinite(one)])

    def state(self) -> dict[str, Any]:
        """What a later step depends on."""
        return {"seen": list(self.history.seen)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.history.seen.clear()
        self.history.remember(state["seen"])

    def _teach(self, model: Any, tuner: Any, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """The teacher's logits on both images, and the inputs in which the clean image is encoded."""
        with teaching(model, tuner):
            encoded = encode_images(model, batch.inputs)
            key = tuple((row.image, row.question, row.answer) for row in batch.rows)
            if key in self._known:
                clean, noisy = (kept.to(batch.labels.device) for kept in self._known[key])
                return clean, noisy, encoded
            clean = label_logits(model, batch, encoded)
            noisy = label_logits(model, batch, self._corrupted(model, batch, encoded))
        if self.settings.cache_teacher:
            self._known[key] = clean.cpu(), noisy.cpu()
        return clean, noisy, encoded

    def _corrupted(self, model: Any, batch: Batch, encoded: Mapping[str, Any]) -> dict[str, Any]:
        perturbation = self.settings.perturbation
        if perturbation.acts_on == "pixels":
            return perturb_inputs(model, batch.inputs, perturbation)
        noisy = perturb_encoded(model, batch.inputs, encoded["mm_encoder_outputs"], perturbation)
        return {**encoded, "mm_encoder_outputs": noisy}


@contextlib.contextmanager
def teaching(model: Any, tuner: Any) -> Iterator[None]:
    """The model as it is without its adapter, in evaluation and without gradients; afterwards all is as it was.

    Args:
        model: the model.
        tuner: the `peft.LoraModel` of its adapter.
    """
    modes = {module: module.training for module in model.modules()}
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        model.eval()
        tuner.disable_adapter_layers()
        with torch.no_grad():
            yield
    finally:
        tuner.enable_adapter_layers()
        for module, mode in modes.items():
            module.training = mode
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)


def label_logits(model: Any, batch: Batch, inputs: Mapping[str, Any]) -> Float[Tensor, "tokens vocab"]:
    """What the model says at the tokens whose next one is a label; float32.

    Args:
        model: the model.
        batch: the rows.
        inputs: of its forward: the batch's own, or with another image.
    """
    logits = model(**inputs, use_cache=False).logits[:, :-1]
    return logits[batch.places.to(logits.device)].float()


def divergence(
    student: Float[Tensor, "tokens vocab"],
    teacher: Float[Tensor, "tokens vocab"],
    temperature: float,
    kind: Divergence = "reverse",
) -> Float[Tensor, "tokens"]:
    """`T²·KL` between the distributions of two logits, each divided by the temperature.

    Tokens that the teacher bans, by −∞, have no part; their share of the student's probability is not counted.

    Args:
        student: logits.
        teacher: logits.
        temperature: T.
        kind: `"reverse"`, KL(student ‖ teacher); `"forward"`, KL(teacher ‖ student).
    """
    spoken = (student.float() / temperature).log_softmax(dim=-1)
    taught = (teacher.float() / temperature).log_softmax(dim=-1)
    # Where either is infinite the difference would be no number.
    both = spoken.isfinite() & taught.isfinite()
    spoken, taught = spoken.masked_fill(~both, -math.inf), taught.masked_fill(~both, -math.inf)
    first, second = (spoken, taught) if kind == "reverse" else (taught, spoken)
    difference = first.masked_fill(~both, 0) - second.masked_fill(~both, 0)
    return temperature**2 * (first.exp() * difference).sum(dim=-1)
