"""One training loop for all stages: resumable to the step, and the same loss curve whether it was killed or not."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .recipe import StageRecipe

__all__ = ["batch_indices", "load_finished", "run_stage"]
"""What a training process is started with."""


def run_stage(
    name: str,
    stage: StageRecipe,
    module: nn.Module,
    loss_of: Callable[[int], Tensor],
    folder: Path,
    key: str,
    *,
    save_every: int,
    measure: Callable[[int], dict[str, float]] | None = None,
    stop_after: int | None = None,
) -> list[dict[str, Any]]:
    """Optimise the parameters of ``module``, from the last saved state where there is one.

    Args:
        name: The stage, for files and messages.
        stage: How it is optimised.
        module: What is optimised and saved.
        loss_of: The loss of a step; must be a function of the weights and the step number alone.
        folder: Where states are kept.
        key: Digest of all that the result depends on; states of another key are not touched.
        save_every: Steps between saved states.
        measure: Metrics to log whenever a state is saved, given the step.
        stop_after: Give up after this many steps of this call, without a last save, as a kill would; for tests.

    Returns:
        The curve: one entry per ten steps with the mean loss, and metrics where they were measured.
    """
    progress, finished = folder / f"{name}-{key}.progress.pt", folder / f"{name}-{key}.pt"
    matrices = [p for p in module.parameters() if p.requires_grad and p.ndim >= 2]
    vectors = [p for p in module.parameters() if p.requires_grad and p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": stage.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=stage.learning_rate,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, stage))
    first, curve, recent = 0, [], []
    if progress.exists():
        state = torch.load(progress, weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first, curve, recent = state["step"], state["curve"], state["recent"]
    started = time.monotonic()
    for step in range(first, stage.steps):
        loss = loss_of(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent.append(float(loss.detach()))
        done = step + 1
        saving = done % save_every == 0 or done == stage.steps
        if done % 10 == 0 or done == stage.steps:
            entry: dict[str, Any] = {"stage": name, "step": done, "loss": sum(recent) / len(recent)}
            if measure is not None and saving:
                entry |= measure(done)
            curve.append(entry)
            recent = []
            pace = (time.monotonic() - started) / (done - first)
            print(f"{json.dumps(entry)}  {pace:.2f} s/step", flush=True)
        if saving and done < stage.steps:
            _save(
                progress,
                {
                    "module": module.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "step": done,
                    "curve": curve,
                    "recent": recent,
                },
            )
        if stop_after is not None and done - first >= stop_after:
            return curve
    _save(finished, {"module": module.state_dict(), "curve": curve})
    progress.unlink(missing_ok=True)
    return curve


def load_finished(name: str, module: nn.Module, folder: Path, key: str) -> list[dict[str, Any]] | None:
    """Load a finished stage into ``module`` and return its curve; None where it was not finished."""
    path = folder / f"{name}-{key}.pt"
    if not path.exists():
        return None
    state = torch.load(path, weights_only=True)
    module.load_state_dict(state["module"])
    return state["curve"]


def batch_indices(step: int, batch: int, images: int, seed: int) -> list[int]:
    """Return which images a step sees: every epoch a new order, a function of the arguments alone."""
    indices: list[int] = []
    position = step * batch
    while len(indices) < batch:
        epoch, offset = divmod(position + len(indices), images)
        order = torch.randperm(images, generator=torch.Generator().manual_seed(seed * 100_003 + epoch))
        indices += order[offset : offset + batch - len(indices)].tolist()
    return indices


def _rate(step: int, stage: StageRecipe) -> float:
    if step < stage.warmup:
        return (step + 1) / stage.warmup
    share = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * share))


def _save(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    partial.replace(path)  # a kill while writing leaves the last state whole
