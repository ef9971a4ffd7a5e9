"""The training loop of adapters: resumable to the step, with the same curve on any number of processes."""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..errors import ConfigError
from ..storing.locks import alone_in
from .encoding import check_rows, encode_rows
from .lora import adapter_weights, lora_config, lora_layers
from .processes import Team
from .recipe import TrainingRecipe
from .rows import Row
from .seed import AnswerLoss, Loss, SEEDLoss
from .states import read_state, save_adapter, training_key, write_log, write_state

_SMALL = 1e-6  # a divergence below it means that the teacher says what the student says
_STEPS_TO_WARN = 10


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training gave.

    Attributes:
        folder: where the adapter is.
        log: one entry per step, as in the log file.
        finished: whether all steps were made.
    """

    folder: Path
    log: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    finished: bool = True


def train_adapter(
    model: PreTrainedModel,
    processor: Any,
    rows: Sequence[Row],
    recipe: TrainingRecipe,
    folder: Path,
    *,
    kind: str,
    base: str,
    base_revision: str | None = None,
    team: Team | None = None,
    stop_after: int | None = None,
    show_progress: bool = False,
) -> Trained:
    """Train an adapter; a training that was stopped, by whatever, goes on from its last saved state.

    The batches of a step are shared between the processes, and what a step depends on changes only between steps: the
    curve is the same on any number of processes but for the order in which numbers are added.

    Args:
        model: the model; afterwards as it was.
        processor: its processor.
        rows: what to learn.
        recipe: how.
        folder: where the adapter, its log and its states go.
        kind: what the adapter is, for its record: "seed" or "refusal".
        base: name of the model, as an evaluation will give it.
        base_revision: its commit or digest.
        team: the processes that share the work.
        stop_after: give up after so many steps of this call, as a kill would; for tests.
        show_progress: a bar on standard error.

    Raises:
        ConfigError: for a number of processes that does not divide the batches of a step, steps of more rows than there
            are, a model without the targeted layers, a folder with a finished adapter or the state of another training,
            or a training that came to nothing.
        MissingPackageError: without peft.
        FolderInUseError: while another process trains in the folder.
    """
    team = team if team is not None else Team()
    if recipe.accumulation % team.size:
        raise ConfigError(
            f"batches that cannot be shared: got accumulation {recipe.accumulation} for {team.size} processes; "
            f"expected a multiple of {team.size}. Change accumulation, or the number of processes."
        )
    check_rows(processor, rows)
    asked = recipe.batch_size * recipe.accumulation
    if asked > len(rows) * recipe.epochs:
        raise ConfigError(
            f"more rows in a step than there are: got batch_size × accumulation = {asked}; expected at most "
            f"{len(rows) * recipe.epochs}, {len(rows)} rows in {recipe.epochs} epochs. Lower them."
        )
    loss_of: AnswerLoss | SEEDLoss = AnswerLoss() if recipe.distillation is None else SEEDLoss(recipe.distillation)
    key = training_key(recipe, rows, base, base_revision, kind, bool(getattr(model, "is_quantized", False)))
    steps = math.ceil(len(rows) * recipe.epochs / (recipe.batch_size * recipe.accumulation))
    if team.first:
        folder.mkdir(parents=True, exist_ok=True)
    config = lora_config(model, recipe, base, base_revision)
    with alone_in(folder) if team.first else contextlib.nullcontext(), _fresh_weights(model, recipe, config) as tuner:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps, recipe.warmup_share))
        state = read_state(folder, key)
        log: list[dict[str, Any]] = []
        if state is not None:
            for parameter, value in zip(trained, state["weights"], strict=True):
                parameter.data.copy_(value)
            optimizer.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])
            loss_of.restore(state["loss"])
            log = state["log"]
        begun, first = time.monotonic(), len(log)
        bar = _bar(range(first, steps), steps, show_progress and team.first)
        for step in bar:
            entry, confidences = _step(model, tuner, processor, rows, recipe, loss_of, step, team)
            norm = float(nn.utils.clip_grad_norm_(trained, recipe.gradient_clip))
            sound = math.isfinite(norm)
            if sound:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            with warnings.catch_warnings():
                # A step that was left out for its NaN has no optimizer.step() before.
                warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
                lr = schedule.get_last_lr()[0]
                schedule.step()
            loss_of.remember(confidences)
            pace = (step + 1 - first) / (time.monotonic() - begun)
            nans = (log[-1]["nan"] if log else 0) + (not sound)
            log.append(
                {"step": step + 1, **entry, "lr": lr, "norm": norm if sound else None, "nan": nans}
                | {"it_s": pace, "eta_s": (steps - step - 1) / pace}
            )
            _warn(log)
            if show_progress and team.first:
                bar.set_postfix({name: f"{entry[name]:.3g}" for name in ("loss", "dist", "sup") if name in entry})
            saving = (step + 1) % recipe.save_every == 0 and step + 1 < steps
            if team.first and saving:
                content = {
                    "key": key,
                    "weights": [parameter.detach().cpu() for parameter in trained],
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "loss": loss_of.state(),
                    "log": log,
                }
                write_state(folder, content)
            if team.first and (saving or step % 10 == 9 or step + 1 == steps):
                write_log(folder, log)
            if stop_after is not None and step + 1 - first >= stop_after:
                return Trained(folder=folder, log=log, finished=False)
        weights = adapter_weights(model)
    _check_trained(weights, log)
    if team.first:
        save_adapter(folder, config, weights, recipe, rows, kind, log)
    return Trained(folder=folder, log=log)


def _check_trained(weights: Mapping[str, Tensor], log: Sequence[Mapping[str, Any]]) -> None:
    left_out = f"{log[-1]['nan'] if log else 0} of {len(log)} steps were left out for a gradient that was not finite"
    if not all(bool(value.isfinite().all()) for value in weights.values()):
        raise ConfigError(
            f"a training that came to nothing: got weights that are not finite ({left_out}); expected numbers. "
            "Lower learning_rate, and give another folder."
        )
    if not any(bool(value.any()) for name, value in weights.items() if "lora_B" in name):
        raise ConfigError(
            f"a training that came to nothing: got the weights that it began with ({left_out}); expected others. "
            "Lower learning_rate, alpha or temperature, or use another dtype, and give another folder."
        )


def rate(step: int, steps: int, warmup_share: float) -> float:
    """Share of the learning rate at a step, from 0: linear up over the warm-up, then a cosine to zero."""
    warmup = math.ceil(steps * warmup_share)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def rows_of_step(step: int, size: int, count: int, seed: int) -> list[int]:
    """Which rows a step sees: every epoch a new order, a function of the arguments alone."""
    chosen: list[int] = []
    while len(chosen) < size:
        epoch, offset = divmod(step * size + len(chosen), count)
        order = torch.randperm(count, generator=_generator(seed, "order", epoch)).tolist()
        chosen += order[offset : offset + size - len(chosen)]
    return chosen


def _step(
    model: PreTrainedModel,
    tuner: Any,
    processor: Any,
    rows: Sequence[Row],
    recipe: TrainingRecipe,
    loss_of: AnswerLoss | SEEDLoss,
    step: int,
    team: Team,
) -> tuple[dict[str, float], list[float]]:
    """Gradients of a step, over all processes; the means of what is logged, and the confidences in their order."""
    chosen = rows_of_step(step, recipe.batch_size * recipe.accumulation, len(rows), recipe.seed)
    own: list[tuple[int, dict[str, float], list[float]]] = []
    for number in range(team.rank, recipe.accumulation, team.size):
        some = chosen[number * recipe.batch_size : (number + 1) * recipe.batch_size]
        batch = encode_rows(processor, [rows[index] for index in some], recipe.max_tokens, model.device, model.dtype)
        with _own_draws(model.device, recipe.seed, step, number):
            loss: Loss = loss_of(model, tuner, batch)
            (loss.total / recipe.accumulation).backward()
        own.append((number, {"loss": float(loss.total.detach()), **loss.parts}, list(loss.confidences)))
    team.sum_gradients(parameter for parameter in model.parameters() if parameter.requires_grad)
    # Every process adds up in the same order, that of the batches.
    everyone = sorted((one for some in team.gather(own) for one in some), key=lambda one: one[0])
    means = {name: sum(parts[name] for _, parts, _ in everyone) / len(everyone) for name in everyone[0][1]}
    return means, [value for _, _, confidences in everyone for value in confidences]


@contextlib.contextmanager
def _fresh_weights(model: PreTrainedModel, recipe: TrainingRecipe, config: Any) -> Iterator[Any]:
    """The adapter on the model, begun as the seed says; the process's random state stays as it was."""
    was_checkpointing = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    with contextlib.ExitStack() as stack:
        with _own_draws(model.device, recipe.seed, "weights"):
            tuner = stack.enter_context(lora_layers(model, config, trainable=True))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        if recipe.gradient_checkpointing and not was_checkpointing:
            # The names of transformers 5.23; before, it called it gradient checkpointing.
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            disable = getattr(model, "activation_checkpointing_disable", None) or model.gradient_checkpointing_disable
            if not getattr(model, "_require_grads_hooks", None):
                stack.callback(vars(model).pop, "_require_grads_hooks", None)
                stack.callback(model.disable_input_require_grads)  # transformers leaves that hook behind
            stack.callback(disable)
            enable({"use_reentrant": False})
            # transformers checkpoints blocks in training mode alone; dropout of the model's own is 0 in these families.
            model.train()
        yield tuner


@contextlib.contextmanager
def _own_draws(device: torch.device, *parts: Any) -> Iterator[None]:
    """A random state of its own, so that it does not matter which process draws; afterwards that of before."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # Not torch.manual_seed, which would begin the draws of the other GPUs anew, too.
        torch.default_generator.manual_seed(_number(*parts))
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(_number(*parts))
        yield


def _warn(log: Sequence[Mapping[str, Any]]) -> None:
    last = log[-1]
    if last["nan"] and (len(log) == 1 or log[-2]["nan"] < last["nan"]):
        warnings.warn(
            f"step {last['step']}: the gradient is not finite, and the step was left out ({last['nan']} so far). "
            "Lower the learning rate, or use bfloat16 in place of float16.",
            stacklevel=3,
        )
    first = [abs(entry["dist"]) for entry in log[:_STEPS_TO_WARN] if "dist" in entry]
    if len(log) == len(first) == _STEPS_TO_WARN and max(first) < _SMALL:
        warnings.warn(
            f"the divergence from the teacher is near 0 after {_STEPS_TO_WARN} steps: the mechanism is not active. "
            "Are the strengths 0, or does image_keep = 1 leave the image as it is?",
            stacklevel=3,
        )


def _bar(steps: range, total: int, shown: bool) -> Any:
    if not shown:
        return steps
    from tqdm import tqdm

    return tqdm(steps, initial=steps.start, total=total, unit="step")


def _generator(*parts: Any) -> torch.Generator:
    return torch.Generator().manual_seed(_number(*parts))


def _number(*parts: Any) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")
