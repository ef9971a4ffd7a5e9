"""What a prompt's images are to a model: where its text attends, and where the credit of its answer lies."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from ._hooks import (
    Diagnosis,
    HookStack,
    ImagePatches,
    PatchGrid,
    Placed,
    Readers,
    dispatcher,
    hidden_of,
    outside_generate,
    prompt_positions,
    unwrap,
    with_hidden,
)
from .credit import attention_entropy, credit_entropy, hidden_norms, norm_credit_correlation
from .errors import ConfigError
from .methods import SCR, SCRConfig

_HALF_SCALE = 2.0**10
"""By which gradients are multiplied in float16, whose smallest numbers many of them would fall below."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Diagnostics:
    """One image of one prompt, by the quantities of arXiv 2602.22469. What was not asked for, or is 0/0, is None.

    Tensors are on the CPU.

    Attributes:
        row: row of the prompt.
        image: how many images come before it in the row.
        grids: (height, width) of its rasters, in patches.
        attention: the spatial attention map A, flat, over the patches of all grids: weights ≥ 0, a sum of at most 1.
        entropy: entropy of A, in nats; None where no text attends to the image at all.
        entropy_normalized: the same as a fraction of that of equal weights.
        layers: the blocks after which credit was measured.
        credit: credit of each patch after the last of them, see `scr.credit.patch_credit`.
        credit_entropy_norms: entropy, in nats, of the patches' norms after the last of them: credit by its proxy.
        credit_entropy_gradients: entropy of `credit`, in nats.
        norm_credit_r: Pearson correlation of the patches' norms with their credit, for each of `layers`.
        norm_growth: sum of the patches' norms after each of `layers`, divided by that before the first block.
    """

    row: int
    image: int
    grids: tuple[PatchGrid, ...]
    attention: Float[Tensor, "patches"]
    entropy: float | None
    entropy_normalized: float | None
    layers: range | None = None
    credit: Float[Tensor, "patches"] | None = None
    credit_entropy_norms: float | None = None
    credit_entropy_gradients: float | None = None
    norm_credit_r: Sequence[float | None] | None = None
    norm_growth: Sequence[float | None] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {name: _as_json(value) for name, value in vars(self).items()}


def diagnose(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    *,
    credit: bool = True,
    answers: Int[Tensor, "batch"] | None = None,
    layers: range | None = None,
    attention_layers: range | None = None,
) -> list[Diagnostics]:
    """Measure attention and credit of every image of a batch of prompts, and leave the model as it was.

    One forward over the prompt, beside the diagnostic pass of SCR, and with `credit` one backward pass, from the
    log-probability of the first answer token to the hidden states after the first of `layers`:

        cᵢ = ‖∂ log P(y|I,Q) / ∂hᵢ‖₂ · ‖hᵢ‖₂        (arXiv 2602.22469)

    The attention is that of the unedited model. Credit and norms are those of the model as it is patched meanwhile, as
    every forward is: a method that edits activations leaves its trace of it. No other thread may use the model.

    Args:
        model: as for `scr.patch`. Its parameters need no gradients for this, and get none.
        inputs: the processor's, with `input_ids`.
        credit: whether to measure the fields from `layers` on. It needs the memory of a backward pass through all later
            blocks, but none for parameters.
        answers: token y of each row; None takes the most probable one.
        layers: blocks after which credit is measured; None takes those that SCR edits.
        attention_layers: blocks whose attention is averaged; None takes the family's.

    Returns:
        One entry per image that text comes after, row after row, in prompt order; none for text-only prompts.

    Raises:
        UnsupportedModelError: for a model that no family answers for.
        ConfigError: for blocks that the model does not have, or inputs without ids.
    """
    model, _ = unwrap(model)
    ranges = SCR(model, SCRConfig(layers=layers, attention_layers=attention_layers))
    if inputs.get("input_ids") is None:
        raise ConfigError(
            f"inputs without ids: got {sorted(inputs)}; expected input_ids. Pass what the model's processor returns."
        )
    reader = _Reader(ranges.layers, ranges.attention_layers, credit)
    with (
        HookStack() as stack,
        torch.inference_mode(False),
        torch.set_grad_enabled(credit),
        outside_generate(),
        _without_parameter_gradients(model),
    ):
        served = dispatcher(model)
        stack.callback(served.detach, reader)
        served.attach(reader, model)
        # What was made in inference mode cannot take part in a backward pass.
        own = {name: _usable(value) for name, value in inputs.items()}
        logits = _last_logits(model, own)
        if credit and reader.session is not None:
            reader.session.backward(logits, logits.argmax(dim=-1) if answers is None else answers.to(logits.device))
    return reader.session.results() if reader.session is not None else []


class _Reader:
    """Attached to the dispatcher for one forward, after all methods: it sees what they have made of each block."""

    reads_of: Readers = "text"
    reads_heads = False

    def __init__(self, layers: range, attention_layers: Sequence[int], credit: bool) -> None:
        self.layers, self.attention_layers, self.credit = layers, attention_layers, credit
        self.session: _Reading | None = None

    def open(
        self, images: Sequence[ImagePatches], embeds: Float[Tensor, "batch seq dim"], copies: int, digests: object
    ) -> _Reading:
        """See `hooks.PrefillMethod`."""
        self.session = _Reading(self, images, embeds)
        return self.session


class _Reading:
    """One prefill. Of gradients only their norms at the patches are kept."""

    planned = False

    def __init__(self, reader: _Reader, images: Sequence[ImagePatches], embeds: Float[Tensor, "batch seq dim"]) -> None:
        self._reader, self._images = reader, images
        rows = torch.cat([torch.full_like(image.positions, image.row) for image in images])
        self._patches = Placed(rows, torch.cat([image.positions for image in images]))
        self._before = self._norms(embeds)
        self._norms_after: dict[int, Tensor] = {}
        self._gradient_norms: dict[int, Tensor] = {}
        self._leaf: Tensor | None = None
        self._scale = 1.0

    def observe(self, layer: int, hidden: Float[Tensor, "batch seq dim"]) -> None:
        """Nothing: the diagnostic pass is read for its attention."""

    def plan(self, diagnosis: Diagnosis) -> None:
        """Take the attention maps."""
        self._attention = diagnosis.attention(self._images, self._reader.attention_layers)

    def edit(self, layer: int, output: Any) -> Any:
        """Note the norms, and let the backward pass tell the gradients; no value changes."""
        if not self._reader.credit or layer not in self._reader.layers:
            return output
        hidden = hidden_of(output)
        self._norms_after[layer] = self._norms(hidden)
        if self._leaf is None:  # the backward pass ends here
            hidden = self._leaf = hidden.detach().requires_grad_()
            output = with_hidden(output, hidden)
        hidden.register_hook(functools.partial(self._take, layer))
        return output

    def _take(self, layer: int, gradient: Float[Tensor, "batch seq dim"]) -> None:
        self._gradient_norms[layer] = self._norms(gradient) / self._scale

    def backward(self, logits: Float[Tensor, "batch vocab"], answers: Int[Tensor, "batch"]) -> None:
        """Collect the gradients of each row's log-probability; rows do not see each other."""
        assert self._leaf is not None
        if self._leaf.dtype == torch.float16:
            self._scale = _HALF_SCALE
        chosen = logits.float().log_softmax(dim=-1).gather(1, answers[:, None])
        torch.autograd.grad(chosen.sum() * self._scale, self._leaf)

    def close(self) -> None:
        """Nothing: the backward pass is to come."""

    def results(self) -> list[Diagnostics]:
        """One entry per image."""
        sizes = [len(image.positions) for image in self._images]
        before = self._before.cpu().split(sizes)
        found: list[Diagnostics] = []
        credited: list[dict[str, Any]] = [{} for _ in sizes]
        if self._reader.credit:
            norms, gradients = (
                [kept.get(layer, torch.zeros_like(self._before)).cpu().split(sizes) for layer in self._reader.layers]
                for kept in (self._norms_after, self._gradient_norms)
            )
            for index in range(len(sizes)):
                after = torch.stack([one[index] for one in norms])
                credit = after * torch.stack([one[index] for one in gradients])
                growth = after.sum(dim=1) / before[index].sum()
                credited[index] = {
                    "layers": self._reader.layers,
                    "credit": credit[-1],
                    "credit_entropy_norms": _entropy(after[-1]),
                    "credit_entropy_gradients": _entropy(credit[-1]),
                    "norm_credit_r": [
                        _finite(norm_credit_correlation(*pair)) for pair in zip(after, credit, strict=True)
                    ],
                    "norm_growth": [_finite(one) for one in growth],
                }
        for image, attention, more in zip(self._images, self._attention, credited, strict=True):
            seen = bool(attention.any())
            found.append(
                Diagnostics(
                    row=image.row,
                    image=image.index,
                    grids=image.grids,
                    attention=attention,
                    entropy=float(attention_entropy(attention)) if seen else None,
                    entropy_normalized=float(attention_entropy(attention, normalized=True)) if seen else None,
                    **more,
                )
            )
        return found

    def _norms(self, hidden: Tensor) -> Float[Tensor, "patches"]:
        rows, positions = self._patches.on(hidden.device)
        return hidden_norms(hidden.detach()[rows, positions])


@contextlib.contextmanager
def _without_parameter_gradients(model: PreTrainedModel) -> Iterator[None]:
    """Inside the `with`, no parameter asks for a gradient and no module is training, which would draw for dropout."""
    training = [module for module in model.modules() if module.training]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for module in training:
            module.training = False
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in learning:
            parameter.requires_grad_(True)


def _last_logits(model: Any, inputs: Mapping[str, Any]) -> Float[Tensor, "batch vocab"]:
    """The logits of the first answer token, whichever side the padding is on."""
    batch, seq = inputs["input_ids"].shape
    mask = inputs.get("attention_mask")
    ends = (
        torch.zeros(batch, dtype=torch.long, device="cpu") if mask is None else mask.cpu().int().flip(1).argmax(dim=1)
    )
    last = seq - 1 - ends
    wanted, place = last.unique(return_inverse=True)
    positions = inputs.get("position_ids")
    if positions is None:
        positions = prompt_positions(model, inputs)
    given = {**inputs, "position_ids": positions, "use_cache": False}
    # A row needs the logits of one token, and those of all would take more memory than all else.
    logits = model(**given, logits_to_keep=wanted.to(inputs["input_ids"].device)).logits
    return logits[torch.arange(batch, device=logits.device), place.to(logits.device)]


def _usable(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def _entropy(weights: Float[Tensor, "patches"]) -> float | None:
    """None for gradients that overflowed, or that are 0 everywhere, as after the last block."""
    return float(credit_entropy(weights)) if weights.isfinite().all() and weights.any() else None


def _finite(value: Tensor) -> float | None:
    return float(value) if value.isfinite() else None


def _as_json(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, tuple | list | range):
        return [list(one) if isinstance(one, tuple) else one for one in value]
    return value
